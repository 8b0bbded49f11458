"""A database of MLflow's that does not answer: that is told at once, while MLflow still tries."""

import os
import subprocess
import sys
import threading

import pytest


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+pymysql"])
def test_a_database_that_does_not_answer_is_told_at_once(driver, tmp_path):
    pytest.importorskip(driver.partition("+")[2])
    spec = tmp_path / "spec.yaml"
    spec.write_text("model: {source: models:/a/1}", encoding="utf-8")
    command = [sys.executable, "-m", "tokenbuncher", "fetch-model", "--spec", str(spec)]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        env={**os.environ, "MLFLOW_TRACKING_URI": f"{driver}://nobody@127.0.0.1:1/none"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            told = next((line for line in process.stderr if "does not answer" in line), "")
        finally:
            watchdog.cancel()
            process.kill()
    assert "MLflow's database at 127.0.0.1:1 does not answer" in told
