"""Dask clusters for tests."""

from distributed import LocalCluster


def start_cluster(workers):
    """Return a scheduler with workers in threads of this process: nothing ends them."""
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        dashboard_address="127.0.0.1:0",
    )
