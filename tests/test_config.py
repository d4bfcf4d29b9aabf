"""Configurations: typed overrides, errors that name everything, and the files in configs/."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from train.config import (
    ConfigError,
    completed,
    differences,
    digest,
    from_dict,
    load,
    override,
    parse,
    require_size,
    split_spec,
    to_dict,
)
from train.settings import TrainConfig

SCI = str(Path(__file__).parent.parent / "configs" / "sci.py")


@dataclass(frozen=True)
class Inner:
    count: int
    rate: float
    mode: Literal["fast", "slow"]


@dataclass(frozen=True)
class Outer:
    name: str
    flag: bool
    limit: int | None
    window: tuple[int, int]
    names: tuple[str, ...]
    inner: Inner
    weights: dict[str, float] = field(metadata={"keys": ("bce", "rcr")})


OUTER = Outer("x", False, 3, (0, 0), (), Inner(1, 0.5, "fast"), {"bce": 1.0})


def test_values_are_read_by_the_type_of_their_field() -> None:
    changed = override(
        OUTER,
        [
            "name=1e-5",
            "flag=true",
            "limit=none",
            "window=10,13",
            "names=a, b",
            "inner.rate=1e-5",
            "inner.count=7",
            "inner.mode=slow",
            "weights.rcr=0.5",
        ],
    )
    inner = Inner(7, 1e-5, "slow")
    weights = {"bce": 1.0, "rcr": 0.5}
    assert changed == Outer("1e-5", True, None, (10, 13), ("a", "b"), inner, weights)
    assert OUTER.weights == {"bce": 1.0}  # the original is untouched
    assert override(OUTER, ["limit=4"]).limit == 4


def test_lists_are_read_as_people_write_them() -> None:
    """Brackets of a regular expression are its own; quotes of JSON are not."""
    base = OUTER
    for text, names in (
        ("a,b", ("a", "b")),
        ('["a", "b"]', ("a", "b")),
        ("('a','b')", ("a", "b")),
        (r"vision\.(x|y)", (r"vision\.(x|y)",)),
        (r"(x)\..*|(y)", (r"(x)\..*|(y)",)),
        ("[ab].*", ("[ab].*",)),
        ("[]", ()),
    ):
        assert override(base, [f"names={text}"]).names == names, text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner.cuont=1", "'inner.cuont' is unknown; did you mean 'count'?"),
        ("iner.count=1", "'iner' is unknown; did you mean 'inner'?"),
        ("zzz=1", "choose one of: name, flag, limit, window, names, inner, weights"),
        ("inner=1", "'inner' is a group; set one of its fields: inner.count"),
        ("inner.count.more=1", "'inner.count.more' is not a field"),
        ("inner.count=1.5", "'1.5' is not a int"),
        ("inner.count=true", "'true' is not a int"),
        ("inner.rate=fast", "'fast' is not a float"),
        ("inner.mode=fats", "'fats' is not allowed; did you mean 'fast'?"),
        ("flag=maybe", "'maybe' is not a bool"),
        ("window=1", "needs 2 values"),
        ("weights.bec=1", "'weights.bec' is unknown; did you mean 'bce'?"),
        ("weights=1", "is not a field"),
        ("name", "write it as field=value"),
    ],
)
def test_a_bad_override_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        override(OUTER, [text])
    assert f"--set {text}: " in str(raised.value) and message in str(raised.value)


def test_all_bad_overrides_are_reported_together() -> None:
    with pytest.raises(ConfigError) as raised:
        override(OUTER, ["inner.cuont=1", "name=good", "flag=maybe"])
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize("size", ["tiny", "2b", "8b", "2b_lora"])
def test_every_size_of_sci_loads_and_survives_json(size: str) -> None:
    config = load(f"{SCI}:{size}")
    assert from_dict(TrainConfig, to_dict(config)) == config
    assert config.loss == {"bce": 1.0, "rcr": 0.5}
    assert (config.lora.rank > 0) == (size == "2b_lora")
    assert (config.model.init == "base") == (size == "tiny")


def test_the_default_size_is_tiny_and_an_unknown_one_is_an_error() -> None:
    assert load(SCI) == load(f"{SCI}:tiny")
    assert load(SCI, ["optimizer.lr=1e-5"]).optimizer.lr == 1e-5
    with pytest.raises(ConfigError, match="size '2bb' is unknown; did you mean '2b'"):
        load(f"{SCI}:2bb")


def test_a_missing_file_or_function_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match=r"none\.py is not a file.*other\.py"):
        load(str(tmp_path / "none.py"))
    with pytest.raises(ConfigError, match="defines no get_config"):
        load(str(tmp_path / "other.py"))


def test_several_accelerators_need_a_size() -> None:
    require_size("configs/sci.py", 1)
    require_size("configs/sci.py:tiny", 8)
    with pytest.raises(ConfigError, match=r"say configs/sci\.py:2b"):
        require_size("configs/sci.py", 8)
    assert split_spec("a:b/c.py:2b") == ("a:b/c.py", "2b")
    assert split_spec("c.py") == ("c.py", None)


def test_stored_values_with_other_fields_are_refused() -> None:
    values = to_dict(OUTER)
    del values["inner"]["rate"]
    values["inner"]["raet"] = 1
    with pytest.raises(ConfigError) as raised:
        from_dict(Outer, values)
    assert "inner.rate: missing" in str(raised.value)
    assert "inner.raet: unknown; did you mean 'rate'?" in str(raised.value)


def test_a_config_of_a_version_without_a_field_with_a_default_is_read() -> None:
    values = to_dict(load(SCI))
    del values["data"]["lists"]
    assert from_dict(TrainConfig, values) == load(SCI)
    assert completed(TrainConfig, values) == to_dict(load(SCI))
    assert "lists" not in values["data"], "the stored values stay as they are"
    del values["data"]["source"]
    with pytest.raises(ConfigError, match=r"^data\.source: missing$"):
        from_dict(TrainConfig, values)


def test_the_hash_and_the_differences_follow_the_values() -> None:
    config = load(SCI)
    changed = override(config, ["optimizer.lr=0.5", "loss.softmax=1", "data.workers=7"])
    assert digest(config) == digest(load(SCI)) != digest(changed)
    assert differences(to_dict(config), to_dict(changed)) == [
        "loss.softmax: 'absent' -> 1.0",
        "optimizer.lr: 0.001 -> 0.5",
    ]  # data.workers changes how a run goes, not what it computes


def test_the_command_line() -> None:
    arguments = parse("sft", "what it does", "configs/sci.py", ["--set", "a=1", "b=2", "--set=c=3"])
    assert arguments.set == ["a=1", "b=2", "c=3"]
    assert arguments.workdir == "runs/sft-sci-tiny"
    arguments = parse("sft", "what it does", "configs/sci.py", ["--config", "x/design.py:2b"])
    assert arguments.workdir == "runs/sft-design-2b"


def test_a_config_file_may_import_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    design = Path(SCI).with_name("design.py")
    assert load(f"{design}:8b").name == "design_8b"
    assert load(str(design)).loss == {"bce": 0.5, "softmax": 1.0}
    alone = tmp_path / "mine.py"
    alone.write_text("from configs_elsewhere import sci\n")
    with pytest.raises(ConfigError, match=r"mine\.py: No module named 'configs_elsewhere'; keep"):
        load(str(alone))


def test_a_run_in_a_bucket_is_refused_before_it_begins(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("sft", "", "configs/sci.py", ["--workdir", "gs://bucket/run"])
    assert "--workdir gs://bucket/run: addresses are not read; mount" in capsys.readouterr().err
