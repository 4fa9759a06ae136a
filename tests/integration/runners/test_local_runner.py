"""The local runner with real processes: launch, conflict, stop, interruption, deletion."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tuneyard.errors import ConflictError, NotFoundError, UnavailableError, UsageError
from tuneyard.runners import LocalRunner, RunKey

LORA = RunKey("finetune", "lora")


def test_a_run_that_exits_with_0_has_succeeded(bench):
    bench.runner.launch(bench.spec())
    info = bench.runner.wait(LORA)
    assert (info.status, info.exit_code, info.attempts) == ("succeeded", 0, 1)
    assert info.started_at and info.finished_at and info.started_at <= info.finished_at
    assert info.experiment == "default-bucket/experiments/lora"


def test_a_running_run_has_its_process_id(bench, wait_until):
    info = bench.runner.launch(bench.spec(seconds=60))
    wait_until(bench.starts, "the program starts")
    assert info.status == "running"
    assert info.pid == bench.starts()[0]
    assert psutil.pid_exists(info.pid)


def test_a_failed_run_has_the_error_and_hint_of_its_process(bench):
    prints = ["something before", "error: datasets/x.jsonl is not in the store", "hint: deliver it first"]
    bench.runner.launch(bench.spec(code=4, prints=prints))
    info = bench.runner.wait(LORA)
    assert (info.status, info.exit_code) == ("failed", 4)
    assert info.error == "datasets/x.jsonl is not in the store"
    assert info.hint == "deliver it first"


def test_the_error_of_an_earlier_attempt_is_not_reported(bench):
    bench.runner.launch(bench.spec(code=4, prints=["error: the first"]))
    bench.runner.wait(LORA)
    bench.runner.launch(bench.spec(code=1))
    assert bench.runner.wait(LORA).error == "started with store file:///s"


def test_a_run_outlives_its_killed_launcher(bench, wait_until):
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        from pathlib import Path
        from tuneyard.runners import Launch, LocalRunner, RunKey
        from tuneyard.values import Values
        class Given(Values):
            seconds: int = 60
        argv = lambda folder, launch: [sys.executable, {str(bench.program)!r}, str(folder.values), str(folder.work)]
        runner = LocalRunner(Path({str(bench.home)!r}), commands={{"finetune": argv}})
        runner.launch(Launch(RunKey("finetune", "lora"), Given(), "file:///s"))
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    launcher = subprocess.run([sys.executable, "-c", script], start_new_session=True, check=False)
    assert launcher.returncode == -signal.SIGKILL
    wait_until(bench.starts, "the program starts")
    assert bench.runner.get(LORA).status == "running"
    (bench.folder() / "work" / "go").touch()
    assert bench.runner.wait(LORA).status == "succeeded"


def test_a_run_has_its_own_session_so_that_closing_the_terminal_does_not_end_it(bench, wait_until):
    info = bench.runner.launch(bench.spec(seconds=60))
    wait_until(bench.starts, "the program starts")
    assert os.getsid(info.pid) != os.getsid(0)


def test_a_killed_supervisor_interrupts_the_run_after_its_process_has_saved(bench, wait_until):
    bench.runner.launch(bench.spec(seconds=60))
    wait_until(bench.starts, "the program starts")
    os.kill(bench.pids()["supervisor"], signal.SIGKILL)
    info = bench.runner.wait(LORA)
    assert info.status == "interrupted"
    assert info.why == "the machine restarted or the process was killed"
    assert "newest checkpoint" in info.hint
    if sys.platform == "linux":
        assert (bench.folder() / "work" / "saved").exists()


def test_a_run_killed_with_its_supervisor_is_interrupted_and_can_be_launched_again(bench, wait_until):
    bench.runner.launch(bench.spec(seconds=60))
    wait_until(bench.starts, "the program starts")
    for pid in bench.pids().values():
        os.kill(pid, signal.SIGKILL)
    assert bench.runner.wait(LORA).status == "interrupted"
    (bench.folder() / "work" / "go").touch()
    bench.runner.launch(bench.spec(seconds=60))
    info = bench.runner.wait(LORA)
    assert (info.status, info.attempts) == ("succeeded", 2)


def test_a_process_killed_by_the_system_is_a_failure_that_names_memory(bench, wait_until):
    bench.runner.launch(bench.spec(seconds=60))
    wait_until(bench.starts, "the program starts")
    os.kill(bench.pids()["child"], signal.SIGKILL)
    info = bench.runner.wait(LORA)
    assert (info.status, info.exit_code) == ("failed", 137)
    assert "memory" in info.error


def test_stop_lets_the_process_save_and_the_run_is_stopped_with_143(bench, wait_until):
    bench.runner.launch(bench.spec(seconds=60))
    wait_until(bench.starts, "the program starts")
    info = bench.runner.stop(LORA)
    assert (info.status, info.exit_code) == ("stopped", 143)
    assert (bench.folder() / "work" / "saved").read_text() == "saved"
    assert "saved" in list(bench.runner.logs(LORA))


def test_stop_of_a_process_that_ignores_sigterm_raises_and_force_kills_it(bench, wait_until):
    bench.runner.launch(bench.spec(seconds=60, ignores_sigterm=True))
    wait_until(bench.starts, "the program starts")
    with pytest.raises(UnavailableError, match=r"has not stopped within 0\.3 s") as caught:
        bench.runner.stop(LORA, timeout_seconds=0.3)
    assert "--force" in caught.value.hint
    info = bench.runner.stop(LORA, timeout_seconds=0.3, force=True)
    assert (info.status, info.exit_code) == ("stopped", 137)
    assert not psutil.pid_exists(bench.starts()[0])


def test_stop_right_after_the_launch_reaches_the_process(bench):
    bench.runner.launch(bench.spec(seconds=60))
    assert bench.runner.stop(LORA).status == "stopped"


def test_stopping_an_ended_run_changes_nothing(bench):
    bench.runner.launch(bench.spec())
    ended = bench.runner.wait(LORA)
    assert bench.runner.stop(LORA) == ended


def test_a_second_launch_with_equal_values_joins_the_run(bench, wait_until):
    first = bench.runner.launch(bench.spec(seconds=60))
    wait_until(bench.starts, "the program starts")
    second = bench.runner.launch(bench.spec(seconds=60))
    assert (second.pid, second.attempts) == (first.pid, 1)
    assert len(bench.starts()) == 1


def test_a_second_launch_with_other_values_is_a_conflict_that_names_the_keys(bench):
    bench.runner.launch(bench.spec(seconds=60, peft={"r": 8, "alpha": 16}))
    with pytest.raises(ConflictError) as caught:
        bench.runner.launch(bench.spec(seconds=60, peft={"r": 16, "alpha": 16}))
    assert caught.value.details["keys"] == ["peft.r"]
    assert "The run 'finetune/lora' is running with different values: peft." in str(caught.value)
    assert json.loads((bench.folder() / "values.json").read_text())["peft"]["r"] == 8


def test_a_second_launch_into_another_store_is_a_conflict(bench):
    bench.runner.launch(bench.spec(seconds=60))
    with pytest.raises(ConflictError, match="--store"):
        bench.runner.launch(bench.spec(seconds=60, store="file:///other"))


def test_of_eight_concurrent_launches_one_starts_the_process_and_all_join_it(bench, wait_until):
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from tuneyard.runners import Launch, LocalRunner, RunKey
        from tuneyard.values import Values
        class Given(Values):
            seconds: int = 60
        argv = lambda folder, launch: [sys.executable, {str(bench.program)!r}, str(folder.values), str(folder.work)]
        runner = LocalRunner(Path({str(bench.home)!r}), commands={{"finetune": argv}})
        sys.stdin.readline()
        print(runner.launch(Launch(RunKey("finetune", "lora"), Given(), "file:///s")).pid)
        """
    )
    command = [sys.executable, "-c", script]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    pids = {int(racer.communicate()[0]) for racer in racers}
    assert [racer.returncode for racer in racers] == [0] * 8
    wait_until(bench.starts, "the program starts")
    assert pids == set(bench.starts())
    assert len(bench.starts()) == 1


def test_runs_are_found_by_another_runner_of_the_same_home_newest_first(bench):
    for name in ("one", "two"):
        bench.runner.launch(bench.spec(name))
        bench.runner.wait(RunKey("finetune", name))
    bench.runner.launch(bench.spec("three", verb="deliver"))
    bench.runner.wait(RunKey("deliver", "three"))
    again = LocalRunner(bench.home)
    assert [info.name for info in again.list()] == ["three", "two", "one"]
    assert [info.name for info in again.list("finetune")] == ["two", "one"]


def test_one_name_serves_two_verbs(bench):
    bench.runner.launch(bench.spec("same"))
    bench.runner.launch(bench.spec("same", verb="deliver"))
    bench.runner.wait(RunKey("finetune", "same"))
    bench.runner.wait(RunKey("deliver", "same"))
    assert len(bench.runner.list()) == 2


def test_logs_followed_end_with_the_run_and_have_every_line(bench):
    bench.runner.launch(bench.spec(seconds=60, prints=["one", "bar 1\rbar 2\rbar 3", "three"]))
    lines = bench.runner.logs(LORA, follow=True)
    assert next(lines) == "started with store file:///s"
    (bench.folder() / "work" / "go").touch()
    assert list(lines) == ["one", "bar 3", "three"]


def test_a_second_attempt_is_marked_in_the_log(bench):
    for _ in range(2):
        bench.runner.launch(bench.spec())
        bench.runner.wait(LORA)
    lines = list(bench.runner.logs(LORA))
    assert len(lines) == 3
    assert lines[1].startswith("--- attempt 2, ")


def test_waiting_with_a_timeout_raises_and_the_run_continues(bench):
    bench.runner.launch(bench.spec(seconds=60))
    with pytest.raises(UnavailableError, match=r"'finetune/lora' is still running after 0\.1 s"):
        bench.runner.wait(LORA, timeout_seconds=0.1)


def test_delete_removes_an_ended_run_and_nothing_else(bench):
    bench.runner.launch(bench.spec())
    bench.runner.launch(bench.spec("other"))
    bench.runner.wait(LORA)
    bench.runner.wait(RunKey("finetune", "other"))
    assert bench.runner.delete(LORA).name == "lora"
    assert [path.name for path in bench.folder().parent.iterdir()] == ["other"]
    with pytest.raises(NotFoundError, match="no finetuning run named 'lora'"):
        bench.runner.get(LORA)


def test_delete_refuses_an_active_run(bench):
    bench.runner.launch(bench.spec(seconds=60))
    with pytest.raises(ConflictError, match="is still running") as caught:
        bench.runner.delete(LORA)
    assert "tuneyard stop finetune/lora" in caught.value.hint
    assert bench.runner.get(LORA).status == "running"


def test_files_that_may_hold_secrets_are_readable_by_their_owner_only(bench):
    bench.runner.launch(bench.spec("api", verb="serve"))
    folder = bench.folder("api", "serve")
    for name in ("values.json", "run.json", "api-key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_server_gets_its_key_from_the_environment_and_keeps_it_when_relaunched(bench):
    bench.program.write_text("import os, sys\nprint(os.environ['TUNEYARD_API_KEY'])\n")
    key = RunKey("serve", "api")
    urls = set()
    for _ in range(2):
        urls.add(bench.runner.launch(bench.spec("api", verb="serve")).url)
        bench.runner.wait(key)
    assert len(urls) == 1
    lines = [line for line in bench.runner.logs(key) if not line.startswith("---")]
    assert lines[0] == lines[1] == Path(bench.runner.get(key).api_key_file).read_text().strip()
    assert lines[0] not in (bench.folder("api", "serve") / "run.json").read_text()


def test_servers_get_ports_of_their_own(bench):
    urls = {bench.runner.launch(bench.spec(name, verb="serve", seconds=60)).url for name in ("one", "two")}
    assert len(urls) == 2
    assert all(url.startswith("http://127.0.0.1:") and url.endswith("/v1") for url in urls)


def test_a_server_that_gets_no_port_keeps_its_earlier_record(bench):
    key = RunKey("serve", "api")
    first = bench.runner.launch(bench.spec("api", verb="serve"))
    before = bench.runner.wait(key)
    other = bench.runner.launch(bench.spec("other", verb="serve", seconds=60))
    port = int(other.url.rpartition(":")[2].removesuffix("/v1"))
    with pytest.raises(UnavailableError, match="is in use by another program"):
        bench.runner.launch(replace(bench.spec("api", verb="serve"), port=port))
    assert first.attempts == 1
    assert bench.runner.get(key) == before


def test_a_stopped_server_that_exits_with_0_is_stopped(bench, wait_until):
    bench.program.write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "pathlib.Path(sys.argv[2], 'starts').touch()\n"
        "time.sleep(60)\n"
    )
    key = RunKey("serve", "api")
    info = bench.runner.launch(bench.spec("api", verb="serve"))
    assert (info.status, info.why) == ("running", "loading the model")
    wait_until((bench.folder("api", "serve") / "work" / "starts").exists, "the program starts")
    assert bench.runner.stop(key).status == "stopped"


def test_a_command_that_can_not_be_started_is_a_failure(bench):
    runner = LocalRunner(bench.home, commands={"finetune": lambda folder, launch: ["/nowhere/python"]})
    runner.launch(bench.spec())
    info = runner.wait(LORA)
    assert info.status == "failed"
    assert info.error == "The command '/nowhere/python' can't be started: No such file or directory."


def test_progress_is_read_from_the_work_folder(bench):
    bench.runner.launch(bench.spec())
    bench.runner.wait(LORA)
    work = bench.folder() / "work"
    (work / "metrics.jsonl").write_text('{"step": 3, "max_steps": 9, "loss": 1.5}\n{"step": 4, "eval_l')
    progress = bench.runner.get(LORA).progress
    assert (progress.step, progress.max_steps, progress.loss) == (3, 9, 1.5)
    (work / "progress.json").write_text('{"phase": "finished", "step": 9, "max_steps": 9}')
    assert (bench.runner.get(LORA).progress.step, bench.runner.get(LORA).progress.loss) == (9, 1.5)
    record = {"step": 5, "max_steps": 9, "loss": 1.25, "seconds_left": 8.0, "phase": "training"}
    (work / "progress.json").write_text(json.dumps(record))
    assert bench.runner.get(LORA).progress.seconds_left == 8.0


def test_an_invalid_name_is_refused_before_anything_is_written(bench):
    with pytest.raises(UsageError, match="'Lora_16' is not a valid run name") as caught:
        bench.runner.launch(bench.spec("Lora_16"))
    assert caught.value.hint == "Use --name lora-16"
    assert not (bench.home / "runs").exists()
