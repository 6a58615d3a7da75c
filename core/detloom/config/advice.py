"""What to tell somebody who wrote a key that does not exist."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING

from detloom.config.compose import Chosen, LeafField, choice_fields, fitting, settings_path
from detloom.specs import Spec

if TYPE_CHECKING:
    from detloom.host import PluginHost

_OTHER_NAMES = {
    "learning_rate": "lr",
    "lr0": "lr",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "batch": "batch_size",
    "imgsz": "resolution",
    "img_size": "resolution",
    "image_size": "resolution",
    "workers": "num_workers",
    "patience": "early_stopping_patience",
    "weights": "pretrain_weights",
    "pretrained": "pretrain_weights",
    "name": "type",
}
"""What other training codes call a field."""

_SECRETS = {"password", "passwd", "secret", "secrets", "token", "credential", "credentials", "apikey"}
_SECRET_PAIRS = {("api", "key"), ("access", "key"), ("private", "key")}


def looks_like_secret(key: str) -> bool:
    """True for `data.cvat.password` or `token`; false for `token_env`, which names an environment variable."""
    words = re.split(r"[_-]", key.rpartition(".")[2].lower())
    if words[-1] in {"env", "variable"}:
        return False
    return not _SECRETS.isdisjoint(words) or any(pair in _SECRET_PAIRS for pair in pairwise(words))


def unknown_key(
    host: PluginHost, key: str, leaves: Mapping[str, LeafField], chosen: Sequence[Chosen]
) -> tuple[str, str]:
    """Message and hint for a key that no leaf has."""
    owner = _unchosen_owner(host, key, chosen)
    if owner is not None:
        leaf, spec = owner
        picked = [host.qualified(pick.spec) for pick in chosen if pick.field == leaf.key]
        message = (
            f"has no effect: {host.qualified(spec)} is not in {leaf.key} (which is {', '.join(picked) or 'empty'})"
        )
        return message, f"name it in {leaf.key}, or remove this key"
    return "there is no such key", _suggestion(key, leaves)


def _unchosen_owner(host: PluginHost, key: str, chosen: Sequence[Chosen]) -> tuple[LeafField, Spec] | None:
    """The plugin whose settings this key would be among, were it chosen."""
    taken = {pick.path for pick in chosen}
    for leaf in choice_fields():
        for spec in fitting(host, leaf):
            path = settings_path(host, leaf, spec)
            if path not in taken and (key == path or key.startswith(f"{path}.")):
                return leaf, spec
    return None


def _suggestion(key: str, leaves: Mapping[str, LeafField]) -> str:
    section, _, name = key.rpartition(".")
    ours = _OTHER_NAMES.get(name, "")
    if f"{section}.{ours}" in leaves:
        return f"did you mean {section}.{ours}?"
    near = get_close_matches(key, leaves, n=2, cutoff=0.75)
    if near:
        return f"did you mean {' or '.join(near)}?"
    siblings = [leaf.removeprefix(f"{section}.") for leaf in leaves if section and leaf.startswith(f"{section}.")]
    close = get_close_matches(name, siblings, n=1, cutoff=0.6)
    if close:
        return f"did you mean {section}.{close[0]}?"
    elsewhere = [leaf for leaf in leaves if leaf.rpartition(".")[2] == name]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere[:3])}?"
    while section and not siblings:
        section = section.rpartition(".")[0]
        siblings = [leaf.removeprefix(f"{section}.") for leaf in leaves if section and leaf.startswith(f"{section}.")]
    if siblings:
        return f"the keys of {section}: {', '.join(siblings)}"
    tops = list(dict.fromkeys(leaf.partition(".")[0] for leaf in leaves))
    near = get_close_matches(key.partition(".")[0], tops, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"the sections: {', '.join(tops)}"
