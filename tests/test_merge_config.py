"""`data.sources`: a list of sources, each checked by its own settings, from files and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detloom.config import Layer, ResolvedConfig, file_layer, load_saved, mapping_layer, resolve, text_layer
from detloom.errors import ConfigError
from detloom.host import discover
from detloom_schemas.data_config import LocalDataSource, MinIODataSource

GOOD = {
    "yaml": """data:
  sources:
    - crops
    - {type: s3, bucket: 2024, prefix: 07, downloads: 4, name: depot}
    - type: local
      path: tables
      format: csv
      csv:
        unit: pixels
""",
    "json": """{"data": {"sources": ["crops",
  {"type": "s3", "bucket": "2024", "prefix": "07", "downloads": 4, "name": "depot"},
  {"type": "local", "path": "tables", "format": "csv", "csv": {"unit": "pixels"}}]}}""",
    "toml": """[[data.sources]]
path = "crops"
[[data.sources]]
type = "s3"
bucket = "2024"
prefix = "07"
downloads = 4
name = "depot"
[[data.sources]]
path = "tables"
format = "csv"
csv = {unit = "pixels"}
""",
}
LISTED = (
    {"type": "local", "path": "crops"},
    {"type": "s3", "name": "depot", "bucket": "2024", "prefix": "07", "downloads": 4},
    {"type": "local", "format": "csv", "path": "tables", "csv": {"unit": "pixels"}},
)


def said(text: str) -> Layer:
    return text_layer([("data.sources", text, "--set")])


def mistakes(*layers: Layer) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(discover(), list(layers))
    return [str(mistake) for mistake in caught.value.mistakes]


@pytest.mark.parametrize("kind", GOOD)
def test_a_list_reads_the_same_from_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"run.{kind}"
    file.write_text(GOOD[kind])
    config = resolve(discover(), [file_layer(file)])
    assert config.config.data.sources == LISTED
    crops, depot, tables = config.elements()
    assert crops.settings == LocalDataSource(path="crops") and crops.format is None
    assert depot.settings == MinIODataSource(bucket="2024", prefix="07", downloads=4) and depot.name == "depot"
    assert tables.format is not None and tables.format.name == "csv"
    assert tables.format_settings is not None and tables.format_settings.model_dump() == {"unit": "pixels"}
    assert config.local_paths() == {"data.sources[0].path": "crops", "data.sources[2].path": "tables"}


def test_what_was_written_comes_back_from_every_place_that_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(GOOD["yaml"])
    host = discover()
    config = resolve(host, [file_layer(tmp_path / "run.yaml")])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    ways: list[ResolvedConfig] = [
        load_saved(tmp_path, host),
        resolve(host, [file_layer(tmp_path / "config.yaml")]),
        resolve(host, [said(config.texts()["data.sources"])]),
        config.with_edits([("training.epochs", "3", "there")]),
        resolve(host, [mapping_layer({"data.sources": [dict(one) for one in LISTED]})]),
    ]
    for way in ways:
        assert way.config.data.sources == LISTED
        assert way.elements() == config.elements()


BAD = {
    "yaml": """data:
  sources:
    - path: a
      nmae: x
    - type: s3
      downloads: 700
      secret_key: abc
    - {type: s4}
""",
    "json": """{"data": {"sources": [
  {"path": "a",
   "nmae": "x"},
  {"type": "s3",
   "downloads": 700,
   "secret_key": "abc"},
  {"type": "s4"}]}}""",
    "toml": """[data]
format = "auto"
[[data.sources]]
path = "a"
nmae = "x"
[[data.sources]]
type = "s3"
downloads = 700
secret_key = "abc"
[[data.sources]]
type = "s4"
""",
}
LINES = {"yaml": (4, 6, 7, 8), "json": (3, 5, 6, 7), "toml": (5, 8, 9, 11)}


@pytest.mark.parametrize("kind", BAD)
def test_every_mistake_in_every_element_is_told_at_once_with_its_line(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"run.{kind}"
    file.write_text(BAD[kind])
    found = mistakes(file_layer(file))
    lines = LINES[kind]
    for text, key, line, words in (
        (found[0], "data.sources[0].nmae", lines[0], "local has no such setting\n    did you mean name?"),
        (found[1], "data.sources[1].downloads", lines[1], "a whole number from 1 to 64"),
        (found[2], "data.sources[1].secret_key", lines[2], "a secret has no place here"),
        (found[3], "data.sources[2].type", lines[3], "there is no source named 's4'"),
    ):
        assert text.startswith(f"{key} ({file}:{line}:"), text
        assert words in text
    assert len(found) == 4 and "abc" not in "".join(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("crops", "data.sources (--set): found 'crops'; allowed: a list of sources"),
        ("[{type: local, path: a}, [b]]", "data.sources[1] (--set): found ['b']; allowed: keys with values, or a path"),
        ("[{bucket: b}]", "that is a setting of the s3 source: write `type: s3`"),
        (
            "[{path: a, name: x}, {path: b, name: X}]",
            "data.sources[1].name (--set): 'X' is the name of data.sources[0]",
        ),
        ("[{path: a, name: ../x}]", "data.sources[0].name (--set): found '../x'; allowed: letters"),
        ("[{path: a, format: cocoa}]", "data.sources[0].format (--set): there is no format named 'cocoa'"),
        ("[{path: a, csv: {unit: pixels}}]", "data.sources[0].csv.unit (--set): local has no such setting"),
        ("[{path: a, format: csv, csv: {unit: inches}}]", "data.sources[0].csv.unit (--set): found 'inches'; allowed:"),
        ("[{path: a, path: b}]", "path is written twice"),
        ("[{type: cvat, task_ids: seven}]", "data.sources[0].task_ids (--set): found 'seven'"),
    ],
)
def test_wrong_lists_are_refused_with_what_is_allowed(text: str, words: str) -> None:
    if "twice" in words:
        with pytest.raises(ConfigError, match="a list of sources"):
            resolve(discover(), [said(text)])
        return
    (found,) = mistakes(said(text))
    assert words in found


def test_the_format_of_all_is_that_of_those_that_name_none() -> None:
    layers = [
        said("[a, {path: b, format: auto}, {path: c, format: voc}]"),
        text_layer([("data.format", "yolo", "--set")]),
    ]
    formats = [element.format and element.format.name for element in resolve(discover(), layers).elements()]
    assert formats == ["yolo", None, "voc"]


# ---- beside a single source -----------------------------------------------------------------------------------------

FOLDER = {"data.local.path": "folder"}


def test_a_list_and_a_folder_of_the_same_layer_contradict_each_other() -> None:
    (found,) = mistakes(text_layer([("data.sources", "[a]", "--set"), ("data.local.path", "b", "DATA")]))
    assert found.startswith("data.local.path (DATA): has no effect: data.sources lists the sources (--set)")
    (found,) = mistakes(text_layer([("data.sources", "[a]", "--set"), ("data.source", "s3", "--set")]))
    assert found.startswith("data.source (--set): has no effect: data.sources lists the sources")


def test_a_list_above_takes_the_place_of_a_folder_below_and_never_the_other_way() -> None:
    above = resolve(discover(), [mapping_layer(FOLDER, "file"), said("[a]")])
    assert above.config.data.sources == ({"type": "local", "path": "a"},)
    assert "data.local.path" not in above.values()
    (found,) = mistakes(
        mapping_layer({"data.sources": ["a"]}, "file", "run.yaml"), text_layer([("data.local.path", "b", "DATA")])
    )
    assert "has no effect: data.sources lists the sources (run.yaml)" in found


def test_another_source_above_takes_the_place_of_the_settings_of_the_one_below() -> None:
    layers = [mapping_layer(FOLDER, "file"), text_layer([("data.source", "s3", "x"), ("data.s3.bucket", "b", "x")])]
    assert resolve(discover(), layers).config.data.source == "s3"
    (found,) = mistakes(mapping_layer({"data.source": "s3", **FOLDER}))
    assert "data.local.path: has no effect: local is not in data.source" in found


# ---- aliases --------------------------------------------------------------------------------------------------------


def aliases(value: Any) -> dict[str, str]:
    return resolve(discover(), [mapping_layer({**FOLDER, "data.class_aliases": value})]).config.data.class_aliases


def test_names_of_classes_may_hold_dots_and_the_words_of_secrets(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        'data:\n  class_aliases:\n    St. Bernard: dog\n    token: coin\n    no: "off"\n    1: one\n'
    )
    config = resolve(discover(), [file_layer(tmp_path / "a.yaml")])
    expected = {"St. Bernard": "dog", "token": "coin", "no": "off", "1": "one"}
    assert config.config.data.class_aliases == expected
    assert load_saved(config.to_dict(), discover()).config.data.class_aliases == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": "b", "b": "c", "c": "A"}, "leads back to itself"),
        ({"big dog": "x", "Big_Dog": "y"}, "has two meanings"),
        ({"-": "x"}, "a class needs a name"),
    ],
)
def test_aliases_that_lead_nowhere_are_refused(value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        aliases(value)


def test_aliases_may_lead_on_and_may_set_the_spelling() -> None:
    assert aliases({"a": "b", "b": "c", "dog": "Dog"}) == {"a": "b", "b": "c", "dog": "Dog"}
