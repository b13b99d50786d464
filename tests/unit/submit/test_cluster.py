from __future__ import annotations

import pytest
import yaml

from cluster_configs import recipes
from heliostat.clusters import check
from heliostat.clusters.document import Document
from heliostat.errors import ConfigError, GateRefused, Interrupted, Unavailable
from heliostat.submit import cluster
from heliostat.testing.kubectl import FakeKubectl

WORDS = ("jobs/train.py", "--recipe", "jobs.flights:demo")
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}


def with_own_names(body):
    text = yaml.safe_dump(body).replace("example", "acme")
    return yaml.safe_load(text)


def kubectl(folder, **options):
    fake = FakeKubectl(folder, **options)
    return fake, cluster.Kubectl(context="staging", executable=str(fake.executable), poll_s=0.0)


@pytest.mark.parametrize("target", ["eks", "gke", "aks", "onprem"])
def test_the_job_on_a_cluster_runs_the_words_that_run_here(target):
    """One recipe: the RayJob differs from a committed template in its name and words alone."""
    platform = getattr(recipes, target)()
    body = cluster.ray_job(platform, WORDS, name="once")
    template = dict(platform.jobs)["train"]

    assert body["spec"]["entrypoint"] == template.entrypoint == cluster.command(WORDS)
    assert body["metadata"]["name"] == "heliostat-once"
    assert body["spec"]["backoffLimit"] == 0
    report = check.check_documents([Document(file="x", body=body)], check.Options())
    assert report.errors == ()


def test_two_submissions_have_different_names():
    """Kubernetes would refuse the second one."""
    names = {cluster.ray_job(recipes.eks(), WORDS)["metadata"]["name"] for _ in range(5)}

    assert len(names) == 5
    assert all(name.startswith("heliostat-train-") for name in names)


def test_words_with_spaces_and_quotes_arrive_as_one():
    """The entrypoint is a shell's line."""
    assert cluster.command(["jobs/x.py", "a b", "it's"]) == "python jobs/x.py 'a b' 'it'\"'\"'s'"
    with pytest.raises(ConfigError):
        cluster.ray_job(recipes.eks(), [])


def test_a_job_is_followed_to_its_end_and_gives_its_own_exit_code(tmp_path, capsys):
    """0 where the script ended well; its output is printed."""
    fake, kube = kubectl(
        tmp_path,
        states=[{}, {"jobDeploymentStatus": "Initializing"}, RUNNING,
                {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}],
    )  # fmt: skip
    body = with_own_names(cluster.ray_job(recipes.eks(), WORDS, name="once"))

    assert cluster.run(body, kube) == 0
    shown = capsys.readouterr()
    assert shown.out == "what the job said\n"
    assert [line.strip() for line in shown.err.splitlines()[1:]] == [
        "waits", "Initializing", "Running RUNNING", "Complete SUCCEEDED",
    ]  # fmt: skip
    assert yaml.safe_load(fake.created) == body
    assert {call[1] for call in fake.calls} == {"staging"}


@pytest.mark.parametrize(("written", "code"), [("3", 3), ("1", 1), ("-9", 137)])
def test_a_gate_that_said_no_on_the_cluster_says_it_here(tmp_path, written, code):
    """The driver's code comes through; a signal is told as a shell does."""
    message = f"Job entrypoint command failed with exit code {written}, last available logs ..."
    ended = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": message}
    _, kube = kubectl(tmp_path, states=[RUNNING, ended])
    body = with_own_names(cluster.ray_job(recipes.eks(), WORDS, name="once"))

    assert cluster.run(body, kube) == code


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, Unavailable),
        ({"jobDeploymentStatus": "ValidationFailed", "message": "bad"}, Unavailable),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "head died"}, Unavailable),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, Interrupted),
    ],
)  # fmt: skip
def test_what_was_no_end_of_the_script_is_told_apart(tmp_path, status, error):
    """Nobody's exit code is invented."""
    _, kube = kubectl(tmp_path, states=[status])
    body = with_own_names(cluster.ray_job(recipes.eks(), WORDS, name="once"))

    with pytest.raises(error):
        cluster.run(body, kube)


def test_the_names_of_the_examples_are_never_sent(tmp_path):
    """Refused with exit 3 before kubectl is asked anything."""
    fake, kube = kubectl(tmp_path)

    with pytest.raises(GateRefused, match="example values"):
        cluster.run(cluster.ray_job(recipes.eks(), WORDS), kube)
    assert fake.calls == []


def test_a_server_that_says_no_is_told_in_one_line(tmp_path):
    """As is a kubectl that is not there."""
    _, kube = kubectl(tmp_path, refuses=["create"])
    body = with_own_names(cluster.ray_job(recipes.eks(), WORDS, name="once"))

    with pytest.raises(Unavailable, match="may not create"):
        cluster.run(body, kube)
    with pytest.raises(Unavailable, match="is not installed"):
        cluster.Kubectl(context="c", executable=str(tmp_path / "nothing")).call("get")
