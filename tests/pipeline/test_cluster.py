"""Stages as jobs on a cluster of two nodes, met through the command line."""

import os
import pty
import re
import signal
import subprocess
import time

from pipeline import ingest
from pipeline.compose import load_config, record_config
from pipeline.embedding_table import read_embeddings
from pipeline.layout import RunLayout
from tests.pipeline.clusters import command, tradewind
from tests.pipeline.nodes import Relay, wait_until


def ingested(folder, n_prompts):
    overrides = [f"run.root={folder}", "run.name=job", f"data.example.n_prompts={n_prompts}"]
    config = load_config(overrides)
    record_config(config, overrides)
    ingest.run(config)
    return RunLayout.of(config)


def test_a_stage_runs_on_other_nodes_and_its_log_comes_back(cluster, tmp_path):
    layout = ingested(tmp_path, 200)
    done = tradewind("submit", cluster.dashboard, "embed", f"run={layout.root}", "--no-env")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "embed: 200 prompts" in done.stdout
    assert "succeeded, exit code 0" in done.stderr
    assert len(read_embeddings(layout.embeddings)[0]) == 200


def test_the_jobs_exit_code_is_returned(cluster, tmp_path):
    done = tradewind(
        "submit",
        cluster.dashboard,
        "ingest",
        "data=tables",
        "data.prompts=missing.parquet",
        "data.outcomes=missing.parquet",
        f"run.dir={tmp_path}/run",
        "--no-env",
        cwd=tmp_path,
    )
    assert done.returncode == 2
    # Relative paths are those of the caller, not of the job's copy of the checkout.
    assert f"error: {tmp_path}/missing.parquet: no such file" in done.stdout


def interrupt(arguments, answer, *, after, meanwhile=lambda: None):
    """Run a command on a terminal, press Ctrl-C once ``after`` was printed, answer, and return (code, output).

    ``meanwhile`` is called in between.
    """
    master, slave = pty.openpty()
    process = command(*arguments, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=1)
    printed = ""
    while after not in printed:
        line = process.stdout.readline()
        assert line, printed
        printed += line
    meanwhile()
    process.send_signal(signal.SIGINT)
    os.write(master, f"{answer}\n".encode())
    rest, _ = process.communicate(timeout=120)
    os.close(master)
    os.close(slave)
    return process.returncode, printed + rest


def test_ctrl_c_leaves_the_job_running_or_stops_it(cluster, tmp_path):
    layout = ingested(tmp_path, 5000)
    arguments = [
        "submit",
        cluster.dashboard,
        "embed",
        f"run={layout.root}",
        # Slow enough not to be done before it is stopped.
        "encoder.num_actors=1",
        "encoder.backend=torch-fp32",
        "--no-env",
    ]
    code, printed = interrupt(arguments, "n", after="embed: 5000 prompts")
    assert code == 130
    follow = re.search(r"left running\. Follow it again: python -m pipeline (attach \S+ \S+)", printed)
    assert follow, printed
    relay = Relay(int(cluster.dashboard.rpartition(":")[2]))
    attach = ["attach", f"http://127.0.0.1:{relay.port}", follow.group(1).split()[2]]

    def lose_connection():
        relay.cut()
        wait_until(lambda: relay.n_open > 0, lambda: "the client did not come back")
        time.sleep(2)  # time to show all again, if it would

    code, printed = interrupt(attach, "y", after="embed: 5000 prompts", meanwhile=lose_connection)
    relay.close()
    assert code == 130
    assert printed.count("embed: 5000 prompts") == 1
    assert printed.splitlines()[-1].endswith(": stopped"), printed
    assert not layout.embeddings.exists()


def test_a_job_that_is_not_there_is_named_with_those_that_are(cluster):
    done = tradewind("attach", cluster.dashboard, "raysubmit_none")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: raysubmit_none: no such job at {cluster.dashboard}; there are: ")
