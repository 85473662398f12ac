"""Files handed out by Ray (extra `ray`) to the machines of a cluster."""

import os
import types
from collections.abc import Iterator, Sequence
from typing import Final

from samsdk.batch.outcome import Outcome
from samsdk.batch.plan import FileTask
from samsdk.batch.settings import Settings
from samsdk.batch.worker import process_died, segment_file
from samsdk.errors import BackendError, MissingExtraError, SamsdkError

ADDRESS_VARIABLE: Final = "RAY_ADDRESS"
# Files that are handed out for each that can run, so that no machine waits for the next.
_AHEAD: Final = 2
_LOOPBACK: Final = "127.0.0.1"


def segment_on_ray(settings: Settings, tasks: Sequence[FileTask], processes: int) -> Iterator[Outcome]:
    """Segment files on a Ray cluster.

    It is the one that this process is connected to or that `RAY_ADDRESS` names, else one of this machine alone, for as
    long as the run takes.

    Every machine of a cluster must see the folder, the run's folder and the bundle under the same paths.

    Args:
        settings: the run's.
        tasks: the files.
        processes: processes of a cluster that is started here; an existing one decides for itself.

    Yields:
        What became of each file, as they are finished.

    Raises:
        MissingExtraError: Ray is not installed.
        BackendError: the cluster cannot be reached or started.
        SamsdkError: the bundle cannot be loaded.
    """
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        _connect(ray, processes)
    try:
        # A file that kills its process would kill the next one, too.
        remote = ray.remote(num_cpus=settings.threads, max_retries=0)(segment_file)
        shared = ray.put(settings)
        ahead = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)) // settings.threads)
        left = list(reversed(tasks))
        running: dict[object, FileTask] = {}
        while left or running:
            while left and len(running) < ahead:
                task = left.pop()
                running[remote.remote(shared, task)] = task
            finished, _ = ray.wait(list(running), num_returns=1)
            for reference in finished:
                yield _outcome(ray, reference, settings, running.pop(reference))
    finally:
        if started:
            ray.shutdown()


def _outcome(ray: types.ModuleType, reference: object, settings: Settings, task: FileTask) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SamsdkError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        return process_died(settings, task, f"on Ray ({type(error).__name__})")
    return outcome


def _connect(ray: types.ModuleType, processes: int) -> None:
    # Whoever wants Ray's usage statistics to be sent can still ask for them.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if os.environ.get(ADDRESS_VARIABLE):
            ray.init(log_to_driver=False)
            return
        ray.init(
            address="local",
            num_cpus=processes,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address=_LOOPBACK,
        )
    except Exception as error:
        # Ray raises the plainest of all where a node does not start in time.
        raise BackendError(f"no Ray cluster: {error}; {ADDRESS_VARIABLE} names another one") from error


def _ray() -> types.ModuleType:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("--engine ray needs Ray: pip install 'samsdk[ray]'") from error
    module: types.ModuleType = ray
    return module
