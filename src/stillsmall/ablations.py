"""Ablations as data: the arms of a question, each an overlay of params.yaml, checked before anything is run.

`recipes/ablations/NAME.yaml`:

    name: kd_temperature
    question: Does the temperature of the KL matter?
    common: {distill.objective: kd}            # laid over params.yaml first, in every arm
    arms:                                      # dotted paths and values; a section is merged key by key, as in recipes
      T1: {objectives.kd.temperature: 1.0}
      T2: {objectives.kd.temperature: 2.0}
    contrasts: {softness: [T2, T1]}            # optional: pairs of arms, the first less the second
    seeds: [1, 2, 3]                           # distill.seed; every arm runs with each

An arm may bring an objective's section of its own name: `objectives.late: {kind: adakd, ...}`, with
`distill.objective: late`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from stillsmall import recipes
from stillsmall.config import PARAMS, ConfigError, Section, parse, read_yaml
from stillsmall.plugins import nearest
from stillsmall.recipes import Change

ABLATIONS = recipes.RECIPES / "ablations"
ArmName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+'.-]*$")]
Overlay = dict[str, Any]  # dotted path to value


class Ablation(Section):
    name: str
    question: Annotated[str, StringConstraints(min_length=1)]
    common: Overlay = Field(default_factory=dict)
    arms: dict[ArmName, Overlay] = Field(min_length=2)
    contrasts: dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(default_factory=dict)
    seeds: list[int] = Field(min_length=1)

    @field_validator("contrasts")
    @classmethod
    def _of_arms(cls, given: dict[str, list[str]], info: ValidationInfo) -> dict[str, list[str]]:
        arms = info.data.get("arms", {})
        for name, pair in given.items():
            for arm in pair if arms else ():
                if arm not in arms:
                    raise ValueError(f"{name}: unknown arm '{arm}'; {nearest(arm, arms)}")
        return given

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, given: list[int]) -> list[int]:
        if len(set(given)) < len(given):
            raise ValueError("expected each seed once")
        return given

    def overlays(self, arm: str, seed: int | None = None) -> list[dict[str, Any]]:
        """What recipes.use lays over params.yaml for one run (without a seed: for all of the arm's runs)."""
        if arm not in self.arms:
            raise ConfigError(f"ablations.{self.name}: unknown arm '{arm}'; {nearest(arm, self.arms)}")
        overlays = [_sections(self.common), _sections(self.arms[arm])]
        return overlays if seed is None else [*overlays, {"distill": {"seed": seed}}]


def available(folder: Path = ABLATIONS) -> dict[str, Ablation]:
    """The ablations of a folder by name, each read and checked for itself but not against params.yaml."""
    return {path.stem: read(path.stem, folder) for path in sorted(folder.glob("*.yaml"))}


def read(name: str, folder: Path = ABLATIONS) -> Ablation:
    """Ablation `name`. ConfigError names the nearest where there is none, and every fault's dotted path."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"ablation '{name}': no such file as {path}; {nearest(name, (p.stem for p in folder.glob('*.yaml')))}"
        )
    ablation = parse(Ablation, read_yaml(path), f"ablations.{name}")
    if ablation.name != name:
        raise ConfigError(f"ablations.{name}.name: got '{ablation.name}'; the file is {path.name}")
    return ablation


def check(ablation: Ablation, params: Path = PARAMS) -> dict[str, list[Change]]:
    """What each arm changes in params.yaml, which stays as it is.

    Raises ConfigError where an arm is not valid, sets an objective that it does not train with, or equals another arm.
    """
    objective = read_yaml(params)["distill"]["objective"]
    changes: dict[str, list[Change]] = {}
    for arm in ablation.arms:
        where = f"ablations.{ablation.name}.arms.{arm}"
        try:
            changes[arm] = recipes.use(ablation.overlays(arm), params, dry_run=True)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
        new = {change.path: change.new for change in changes[arm]}
        chosen = new.get("distill.objective", objective)
        for path in new:
            if path.startswith("objectives.") and path.split(".")[1] != chosen:
                raise ConfigError(f"{where}: {path} changes nothing: distill.objective is '{chosen}'")
        same = [other for other, its in changes.items() if other != arm and its == changes[arm]]
        if same:
            raise ConfigError(f"{where}: the same run as arm {same[0]}")
    return changes


def _sections(overlay: Overlay) -> dict[str, Any]:
    """Dotted paths as nested sections, in memory of their own."""
    tree: dict[str, Any] = {}
    for path, value in overlay.items():
        recipes.put(tree, path, copy.deepcopy(value))
    return tree
