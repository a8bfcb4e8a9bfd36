"""What Gatepost knows of mail providers: the files config/providers/*.toml, in the form that [upstream.NAME] has too.

Three tables of a provider's file are not keys of [upstream.NAME]: [grants.GRANT] (what a grant asks for; one that is
absent is not possible there), [clouds.CLOUD] (what differs in a sovereign cloud), and [oauth2] itself is the default
for [upstream.NAME.oauth2]. Files are named by nobody but this module, so no path of the operator's is ever read here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from proxy.config.model import Grant
from proxy.errors import ConfigError

Cloud = Literal["global", "china", "usgov", "usgov-dod"]
CLOUDS: tuple[Cloud, ...] = ("global", "china", "usgov", "usgov-dod")

_SHIPPED = Path(__file__).parent / "providers"  # in an installed wheel
_CHECKOUT = Path(__file__).parents[2] / "config" / "providers"


@dataclass(frozen=True, slots=True)
class Preset:
    """A provider's file. Everything in it may be overridden by a key of [upstream.NAME]."""

    name: str
    values: Mapping[str, object]  # as [upstream.NAME] has them
    grants: Mapping[str, Mapping[str, object]]
    clouds: Mapping[str, Mapping[str, object]]  # those beside "global"

    def defaults(self, cloud: str, grant: Grant) -> dict[str, object]:
        """What stands under the operator's keys. `cloud` and `grant` are ones that this preset has."""
        differences = dict(self.clouds.get(cloud, {}))
        elsewhere = _table(differences.pop("grants", {}))
        oauth2 = {**_table(self.values.get("oauth2", {})), **_table(differences.pop("oauth2", {}))}
        oauth2["scopes"] = _table(elsewhere.get(grant, self.grants[grant]))["scopes"]
        return {**self.values, **differences, "oauth2": oauth2}

    def is_shared_tenant(self, grant: Grant, tenant: str) -> bool:
        """Whether a tenant's name stands for many (Entra's "organizations"), and the grant needs one of its own."""
        shared = self.grants[grant].get("shared_tenants", [])
        return isinstance(shared, list) and tenant.casefold() in shared


def preset_names() -> tuple[str, ...]:
    """Names of all presets, sorted. Raises ConfigError if the installation lacks them."""
    return tuple(sorted(file.stem for file in _folder().glob("*.toml")))


@cache
def preset(name: str) -> Preset:
    """Read a preset that preset_names() lists."""
    values = tomllib.loads((_folder() / f"{name}.toml").read_text(encoding="utf-8"))
    grants = {grant: _table(table) for grant, table in _table(values.pop("grants")).items()}
    clouds = {cloud: _table(table) for cloud, table in _table(values.pop("clouds", {})).items()}
    return Preset(name, values, grants, clouds)


def _folder() -> Path:
    for folder in (_SHIPPED, _CHECKOUT):
        if folder.is_dir():
            return folder
    raise ConfigError(f"{_SHIPPED} is missing: this installation has no presets", "install Gatepost again")


def _table(value: object) -> dict[str, object]:
    assert isinstance(value, dict), "tests read every file"
    return value
