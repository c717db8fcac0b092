"""Colours: fixed scales, zero apart from "never read", equal steps that look equal."""

import numpy as np
import pytest

from attnlab.inspection.colours import KINDS, N_GREYS, NEVER_READ, PAGE, blend, palette, scale_for


@pytest.mark.parametrize("signed", [False, True])
def test_palette(signed: bool) -> None:
    """A palette has 256 colours and ends its greys with the white page."""
    table = palette(signed)
    assert table.shape == (256, 3) and table.dtype == np.uint8
    assert table[PAGE].tolist() == [255, 255, 255]
    greys = table[:N_GREYS].astype(int).sum(axis=1)
    assert (np.diff(greys) > 0).all()


@pytest.mark.parametrize("signed", [False, True])
def test_never_read(signed: bool) -> None:
    """Never read looks different from weight zero and from the page."""
    table = palette(signed).astype(int)
    kind = "signed" if signed else "probability"
    zero = table[scale_for(kind).index(np.array([0.0]))[0]]
    for other in (zero, table[PAGE]):
        assert np.abs(table[NEVER_READ] - other).max() >= 10


def test_blend() -> None:
    """Blend starts and ends with its anchors and walks evenly."""
    colours = blend(("#ffffff", "#a08070", "#404040"), 101).astype(float)
    assert colours[0].tolist() == [255, 255, 255] and colours[-1].tolist() == [64, 64, 64]
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.max() < 2 * steps.mean()


def test_sequential_colours_darken_all_the_way() -> None:
    light = palette(False)[N_GREYS:].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) < 0.5).all() and light[0] - light[-1] > 200


def test_scale_is_square_root() -> None:
    """Probabilities are placed by their square root."""
    scale = scale_for("probability")
    np.testing.assert_allclose(scale.normalize(np.array([0, 0.01, 0.25, 1.0, 7.0])), [0, 0.1, 0.5, 1, 1])


def test_signed_scale() -> None:
    """Signed weights are placed evenly around the middle."""
    scale = scale_for("signed")
    weights = np.array([-20.0, -10, -0.3, 0, 0.3, 10, 20])
    place = scale.normalize(weights)
    np.testing.assert_allclose(place, -place[::-1])
    assert place[0] == -1 and place[3] == 0
    index = scale.index(weights).astype(int)
    assert (index - index[3] == -(index - index[3])[::-1]).all()
    middle = palette(True)[index[3]].astype(int)
    assert middle.min() > 240  # zero is nearly white


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_colours_monotone(kind: str) -> None:
    """Every weight gets a colour of the map and more weight never a lower one."""
    weights = np.linspace(-12, 12, 4001) if kind == "signed" else np.linspace(0, 12, 4001)
    index = scale_for(kind).index(weights)
    assert index.min() >= N_GREYS and (np.diff(index.astype(int)) >= 0).all()
    assert len(np.unique(index)) > 60


def test_what_is_not_a_number_is_drawn_in_ink() -> None:
    assert scale_for("signed").index(np.array([np.nan, np.inf, -np.inf])).tolist() == [0, 254, 32]


def test_a_scale_of_ones_own_moves_the_ticks() -> None:
    assert scale_for("probability", 0.5).ticks == [0, 0.005, 0.05, 0.125, 0.25, 0.5]
    assert scale_for("signed").ticks == [-10, -1, -0.1, -0.01, 0, 0.01, 0.1, 1, 10]


def test_scale_refused() -> None:
    """A kind without colours and a scale without size are refused."""
    with pytest.raises(ValueError, match=r"kind \(none\) has no colours; it must be one of probability, "):
        scale_for("none")
    with pytest.raises(ValueError, match=r"scale \(0\.0\) must be a positive weight"):
        scale_for("signed", 0.0)
