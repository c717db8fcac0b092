"""With init_from=FOLDER, the settings that weights belong to are those of the folder, where nothing else was chosen."""

import copy
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from attnlab.config.keys import APPENDED, shipped_settings
from attnlab.errors import UsageError
from attnlab.store.damage import Damaged
from attnlab.store.files import expand_path
from attnlab.store.names import CONFIG
from attnlab.store.run_folder import RunFolder

OF_MODELS = ("model", "position", "attention")
OF_RUN = {"_target_": "attnlab.data.vocabularies.OfRun"}
OF_TASKS = "attnlab.data.task.TaskTokens"


def with_folder(cfg: DictConfig, overrides: Sequence[str]) -> tuple[DictConfig, str | None]:
    """The composed config with the groups that `init_from` decides, and what the variant is called there, if it does.

    A group is the user's where one of its options was typed (attention=NAME, attention/mask=NAME), or an experiment;
    single settings that were typed (model.context=256) are put into that of the folder.
    """
    if not isinstance(path := OmegaConf.select(cfg, "init_from"), str):
        return cfg, None
    folder = RunFolder(expand_path(path, key="init_from"))
    if not folder.config.is_file():
        raise UsageError(f"init_from ({folder}) must be the folder of a run or an import: it has no {CONFIG}")
    try:
        content = folder.read_config()
    except Damaged as damage:
        raise UsageError(f"init_from: {damage}") from damage
    keys = [word.partition("=")[0].lstrip("+~") for word in overrides]
    chosen = {key.partition("@")[0].partition("/")[0] for key in keys if "." not in key.partition("@")[0]}
    if chosen & {*APPENDED}:
        return cfg, None
    taken: dict[str, Any] = {name: content[name] for name in OF_MODELS if name in content and name not in chosen}
    if "model" in taken:
        taken["model"] = {**shipped_settings()["model"], **taken["model"]}
    if OmegaConf.select(cfg, "tokenizer._target_") != OF_TASKS and not any(
        key.partition(".")[0] == "tokenizer" for key in keys
    ):
        taken["tokenizer"] = {**OF_RUN, "path": str(folder)}
    whole = copy.deepcopy(cfg)
    OmegaConf.set_struct(whole, False)
    for name, settings in taken.items():
        whole[name] = settings
    for key in keys:
        if key.partition(".")[0] in taken and "." in key:
            OmegaConf.update(whole, key, OmegaConf.select(cfg, key))
    return whole, str(content.get("variant", folder.path.parent.name)) if "attention" in taken else None
