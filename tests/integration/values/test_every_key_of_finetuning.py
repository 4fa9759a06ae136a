"""Every key of finetuning does something, or is refused by name: no third thing.

Each is tried on real trainings of a tiny model in this process, of which `training_witness` describes what was done:
the optimizer, the micro-batches, the numbers, what was published. A key that no table has fails here.
"""

import copy
import json
import shutil
import socket
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lab.chart_keys import CASES
from lab.charts import TRAIN
from lab.finetune_keys import (
    ARGS,
    CONFIG,
    KEYS,
    ODD,
    OF_DEVICES,
    PAIRS,
    Already,
    Elsewhere,
    Exchange,
    Lacks,
    Refused,
    Waits,
    Works,
)
from lab.training import MODEL, conversations, deliver_inputs, preferences
from lab.training_witness import as_text, witness
from lab.value_keys import keys_of
from tuneyard.errors import InvalidValuesError, TuneyardError
from tuneyard.values import FinetuneValues, check_values
from tuneyard.values.training import OWNED, SET_ELSEWHERE
from tuneyard.values.without_effect import ACCEPTED, NEVER, default_of

ROOT = Path(__file__).parents[3]
BASE: dict[str, Any] = {
    "basemodel": MODEL,
    "gpuResource": "",
    CONFIG + "data_conf.training_data.datasets": [{"path": "default-bucket/datasets/chat.jsonl"}],
    CONFIG + "data_conf.validation_data.type": "NONE",
    CONFIG + "batchsize_conf.total_train_batch_size": 2,
    CONFIG + "sft_args.max_seq_length": 128,
    ARGS + "logging_steps": 1,
    ARGS + "num_train_epochs": 1,
    ARGS + "save_strategy": "no",
    ARGS + "seed": 7,
    ARGS + "learning_rate": 1e-2,
}
FIRST = {"messages": [{"role": "user", "content": "yard"}, {"role": "assistant", "content": "boat model data " * 6}]}
LONG = {"role": "assistant", "content": "yard boat model data " * 40}
ODD_ROWS = [
    *conversations(4, seed=3),
    *[FIRST, FIRST],
    {"messages": [FIRST["messages"][0], {**FIRST["messages"][1], "content": FIRST["messages"][1]["content"] + "chat"}]},
    {"messages": [FIRST["messages"][0], LONG]},
    {"messages": [FIRST["messages"][0], {"role": "assistant", "content": ""}]},
    {"messages": [FIRST["messages"][0], {"role": "assistant", "content": "a word <|im_end|> more"}]},
    *conversations(2, seed=4),
]
GENERIC = [name for name in (*NEVER, *OWNED, *SET_ELSEWHERE) if ARGS + name not in KEYS]
NUMBERS = count()


def dotted(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values of dotted ones; a later map replaces or completes an earlier one, None removes."""
    values: dict[str, Any] = {}
    for path, value in copy.deepcopy([item for part in parts for item in part.items()]):
        *above, last = path.split(".")
        place = values
        for name in above:
            place = place.setdefault(name, {})
        if value is None:
            place.pop(last, None)
        elif isinstance(value, dict) and isinstance(place.get(last), dict) and "peft" not in last:
            place[last] = {**place[last], **value}
        else:
            place[last] = value
    return values


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    from tuneyard.store import Manifest, open_store, upload_tree, write_manifest

    folder = tmp_path_factory.mktemp("keys")
    deliver_inputs(folder / "store", rows=conversations(8))
    opened = open_store((folder / "store").as_uri())
    for key, rows in ((ODD, ODD_ROWS), (PAIRS, preferences(6))):
        where, _, name = key.rpartition("/")
        data = folder / name.partition(".")[0]
        data.mkdir()
        (data / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        manifest = Manifest(kind="dataset", files=tuple(upload_tree(opened, data, f"{where}/")))
        write_manifest(opened, f"{where}/.tuneyard/{name}.manifest.json", manifest, replace=True)
    return folder / "store"


@pytest.fixture(scope="module")
def outcomes(store, tmp_path_factory):
    """What comes of values, each tried once: a description of a training, or the error's text."""
    known: dict[str, tuple[str, set[str]]] = {}

    def outcome(values: dict[str, Any], until: int) -> tuple[str, set[str]]:
        key = f"{until} {sorted(values.items(), key=str)}"
        if key not in known:
            number = next(NUMBERS)
            remote = f"default-bucket/experiments/{number}"
            folder = tmp_path_factory.mktemp(f"work-{number}")
            try:
                found = witness({**values, "checkpointsRemote": remote}, store, folder / "w", until=until)
                known[key] = as_text(found), found["read"]
            except TuneyardError as error:
                known[key] = f"{type(error).__name__}: {error}".replace(str(folder), ""), set()
            shutil.rmtree(folder)
        return known[key]

    return outcome


def remarks(values: dict[str, Any]) -> list[str]:
    made: list[str] = []
    check_values(FinetuneValues, values, notice=made.append)
    return made


def refusal(values: dict[str, Any], outcomes: Any) -> str:
    try:
        check_values(FinetuneValues, values)
    except InvalidValuesError as error:
        return "\n".join(str(problem) for problem in error.problems)
    text, _ = outcomes(values, 1)
    return text


@pytest.fixture
def exchanging(monkeypatch):
    """The environment of a process that exchanges with others, of which it is the only one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**settings, "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)


def test_every_key_is_in_one_table():
    elsewhere = {key for key, cluster in keys_of(FinetuneValues) if cluster} | CASES[TRAIN.name].keys()
    here = KEYS.keys() | {ARGS + name for name in (*GENERIC, *OF_DEVICES)}
    every = {key for key, _ in keys_of(FinetuneValues)}
    assert every - elsewhere - here == set()
    assert here - every == set()
    assert len(every) > 230


@pytest.mark.parametrize(
    "key", [key for key, case in KEYS.items() if isinstance(case, Works) and not isinstance(case, Exchange)]
)
def test_a_key_changes_what_a_training_does(key, outcomes):
    case = KEYS[key]
    assert isinstance(case, Works)
    beside = dotted(BASE, case.beside)
    changed = dotted(BASE, case.beside, case.given or {key: case.value})
    assert outcomes(changed, case.until)[0] != outcomes(beside, case.until)[0]
    assert "Error: " not in outcomes(changed, case.until)[0] or "Error: " not in outcomes(beside, case.until)[0]
    if isinstance(case, Waits):
        alone = remarks(dotted(BASE, case.given or {key: case.value}))
        assert any(key.rpartition(".")[2] in line for line in alone), alone


@pytest.mark.filterwarnings("ignore:`broadcast_buffers` is deprecated:FutureWarning")
@pytest.mark.parametrize("key", [key for key, case in KEYS.items() if isinstance(case, Exchange)])
def test_a_key_changes_how_gradients_are_exchanged(key, outcomes, exchanging):
    case = KEYS[key]
    assert isinstance(case, Exchange)
    plain = {CONFIG + "data_conf.training_data.seed": 99}  # another entry of the table than without an exchange
    before, after = outcomes(dotted(BASE, plain), 1)[0], outcomes(dotted(BASE, plain, {key: case.value}), 1)[0]
    assert "gloo" in before
    assert after != before
    assert any(key.rpartition(".")[2] in line for line in remarks(dotted(BASE, {key: case.value})))


@pytest.mark.parametrize("key", [key for key, case in KEYS.items() if isinstance(case, Refused)])
def test_a_key_is_refused_by_name(key, outcomes):
    case = KEYS[key]
    assert isinstance(case, Refused)
    own = {} if case.value is None else {key: case.value}
    reported = refusal(dotted(BASE, case.beside, own), outcomes)
    named = next(iter(case.beside)) if isinstance(case, Lacks) else key.replace("[]", "[0]")
    assert named in reported or key.removeprefix(ARGS) in reported.partition("refused by transformers")[2]
    if isinstance(case, Lacks):
        assert any(key.rpartition(".")[2] in line for line in remarks(dotted(BASE, own)))
    elif own:
        assert key not in refusal(dotted(BASE, case.beside), outcomes)


@pytest.mark.parametrize("name", GENERIC)
def test_a_key_that_other_values_own_is_refused_by_name(name):
    """Whatever the type of the argument, a value that is not its default is refused with the reason."""
    default = default_of(name)
    given = [not default] if isinstance(default, bool) else [True, False, 7, "error", "end", "x", ["x"], {"a": 1}]
    reported = []
    for value in given:
        try:
            check_values(FinetuneValues, dotted(BASE, {ARGS + name: value}))
        except InvalidValuesError as error:
            reported += [str(problem) for problem in error.problems]
        else:
            assert value in (default, False, *ACCEPTED.get(name, ())), f"{name}: {value} is taken"
    reasons = tuple(f"{ARGS}{name}: {words}: " for words in ("has no effect", "is not accepted here"))
    assert any(line.startswith(reasons) for line in reported)


@pytest.mark.parametrize("key", [key for key, case in KEYS.items() if isinstance(case, Already)])
def test_a_key_states_what_is_done_anyway(key, outcomes):
    case = KEYS[key]
    assert isinstance(case, Already)
    with_it = outcomes(dotted(BASE, case.beside, {key: case.value}), 2)[0]
    assert with_it == outcomes(dotted(BASE, case.beside), 2)[0]
    assert "Error: " not in with_it


def test_arguments_that_need_a_device_are_read_by_the_trainer(outcomes):
    _, read = outcomes(dotted(BASE), 2)
    assert set(OF_DEVICES) <= read
    assert len(read) > 25


def test_the_tests_named_elsewhere_exist():
    elsewhere = {key: case.test for key, case in KEYS.items() if isinstance(case, Elsewhere)}
    assert len(elsewhere) <= 21
    for key, test in elsewhere.items():
        assert key.rpartition(".")[2] in (ROOT / test).read_text(encoding="utf-8"), key
