"""Labelling on a cluster of several nodes, one of which goes away: nothing lost, nothing twice, the same bytes."""

import threading
import time

import pytest

from small import params, split
from stillsmall import cache, labelling

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def cluster(monkeypatch):
    for name, value in {
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }.items():
        monkeypatch.setenv(name, value)
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False)
    yield made, nodes
    ray.shutdown()
    made.shutdown()


def who(executor, **changes):
    config = params(**{"pseudo_label.backend": "fake"}).pseudo_label
    config = config.model_copy(update={"executor": executor, "ray_actors": 2, **changes})
    return labelling.Labelling(config, params().run, "nowhere", "pseudo_label")


def slowly(job, log):
    """The job, whose loading takes a moment and leaves a line: which shard was begun."""

    def clips():
        with open(log, "a") as file:
            file.write(job.name + "\n")
        time.sleep(0.5)
        return job.clips()

    return labelling.Job(job.name, job.digest, clips)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_node_that_goes_away_midway_costs_the_shard_in_hand_and_nothing_else(cluster, tmp_path, monkeypatch):
    made, nodes = cluster
    prepared = split(tmp_path / "train", [{} for _ in range(12)], per_shard=1)
    monkeypatch.setattr(cache, "ROOT", tmp_path / "local")
    labelling.transcribe(labelling.utterances(prepared), who("local"), tmp_path / "once")
    monkeypatch.setattr(cache, "ROOT", tmp_path / "shared")
    log = tmp_path / "begun"
    jobs = [slowly(job, log) for job in labelling.utterances(prepared)]
    done = lambda: list((tmp_path / "shared/labels").glob("*.parquet"))  # noqa: E731

    def remove():
        while len(done()) < 3:
            time.sleep(0.02)
        made.remove_node(nodes[1], allow_graceful=False)

    killer = threading.Thread(target=remove)
    killer.start()
    assert labelling.transcribe(jobs, who("ray"), tmp_path / "out") == 12
    killer.join()
    assert contents(tmp_path / "out") == contents(tmp_path / "once")
    begun = log.read_text().split()
    assert len(set(begun)) == 12 and len(begun) <= 13, "only the shard in the dead node's hand is begun again"
    assert labelling.transcribe(labelling.utterances(prepared), who("ray"), tmp_path / "again") == 0


def test_where_it_runs_changes_no_name():
    job = labelling.Job("a", "b", list)
    assert who("ray", ray_actors=7, gpus_per_actor=1.0).key(job, "r") == who("local").key(job, "r")
