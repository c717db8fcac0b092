"""For processes of tests: as if transformers were not installed, to whoever asks whether it is.

torchmetrics, which Lightning imports, imports transformers wherever it is, and that takes seconds of every process. The
usual installation has none. What imports it by name still gets it.
"""

import sys
from typing import Any


class AtTorchmetrics:
    """Waits for the import of torchmetrics, since looking up distributions takes imports of its own."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "torchmetrics":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            from importlib import metadata

            usual = metadata.distribution

            def distribution(distribution_name: str) -> metadata.Distribution:
                if distribution_name == "transformers":
                    raise metadata.PackageNotFoundError(distribution_name)
                return usual(distribution_name)

            metadata.distribution = distribution


sys.meta_path.insert(0, AtTorchmetrics())  # type: ignore[arg-type]
