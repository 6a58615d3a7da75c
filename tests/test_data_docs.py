"""docs/data.md says what is true."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from detloom.cli import cache, split
from detloom.cli.options import add_run_arguments, run_layers
from detloom.config import explain, file_layer, mapping_layer, resolve
from detloom.data.balance import image_rates
from detloom.data.codes import CODES
from detloom.host import discover

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/data.md").read_text(encoding="utf-8")


def test_the_example_is_a_configuration_of_four_sources(tmp_path: Path) -> None:
    (found,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "run.yaml").write_text(found)
    config = resolve(discover(), [file_layer(tmp_path / "run.yaml")])
    assert [element.spec.name for element in config.elements()] == ["local", "s3", "cvat", "local"]
    typed = re.search(r"--set data\.sources='(.*?)'", PAGE)
    assert typed is not None
    args = parsed("--set", f"data.sources={typed[1]}")
    assert [one["path"] for one in resolve(discover(), run_layers(args, discover())).config.data.sources] == ["a", "b"]


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("arguments", [("A", "B"), ("--epochs", "2", "A", "B"), ("A", "B", "--epochs", "2")])
def test_several_data_are_a_list_of_sources_and_one_is_the_folder(arguments: tuple[str, ...]) -> None:
    host = discover()
    config = resolve(host, run_layers(parsed(*arguments), host))
    assert [one["path"] for one in config.config.data.sources] == ["A", "B"]
    assert str(config.origins["data.sources"]) == "command line DATA"
    alone = resolve(host, run_layers(parsed("A"), host))
    assert alone.config.data.sources == () and alone.values()["data.local.path"] == "A"


def test_every_key_flag_and_code_of_the_page_exists() -> None:
    config = resolve(discover(), [mapping_layer({"data.local.path": "a"})])
    keys = {key.rstrip(".") for key in re.findall(r"`(data\.(?!json)[a-z_.]+)", PAGE)}
    assert len(keys) > 10
    for key in keys:
        explain(config, key)
    flags = set()
    for command in (cache, split):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        flags |= {flag for action in parser._actions for flag in action.option_strings}
    assert set(re.findall(r"`(--[a-z-]+)`", PAGE)) <= flags
    codes = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", PAGE)) - {"repeat-factor"}
    assert codes and codes <= CODES.keys()
    assert image_rates.__doc__ is not None and "sqrt(threshold / f(c))" in image_rates.__doc__
    default = explain(config, "data.balance_threshold").default
    assert f"`data.balance_threshold` ({default};" in " ".join(PAGE.split())


def test_what_the_page_points_to_is_there() -> None:
    for name in re.findall(r"`(benchmarks/[a-z_./]+)`", PAGE):
        assert (ROOT / name).is_file()
