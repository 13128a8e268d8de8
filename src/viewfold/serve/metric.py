"""What operators watch, in Prometheus' words; names of routes, no addresses, no prompts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from viewfold.serve.queue import Queue


class Metrics:
    """Counts requests; asks the queue when it is asked itself."""

    def __init__(self, queue: Queue, workers: Callable[[], int]) -> None:
        self.queue, self.workers, self.registry = queue, workers, CollectorRegistry()
        self.requests = Counter(
            "viewfold_requests", "Answered, by route and status.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "viewfold_request_seconds", "Until the answer begins.", ["route"], registry=self.registry,
            buckets=(0.005, 0.02, 0.05, 0.1, 0.5, 1, 5),
        )  # fmt: skip
        self.registry.register(self)  # pyright: ignore[reportArgumentType]

    def describe(self) -> list[Any]:
        """Prometheus asks for names at registration; those of `collect` need none."""
        return []

    def collect(self) -> Any:
        """Yield what stands in the queue."""
        jobs = GaugeMetricFamily("viewfold_jobs", "Of all owners, by state.", labels=["state"])
        for state, number in self.queue.counts().items():
            jobs.add_metric([state], number)
        yield jobs
        yield GaugeMetricFamily("viewfold_workers", "That live.", value=self.workers())

    def text(self) -> bytes:
        """Return all of it."""
        return generate_latest(self.registry)

    def middleware(self, app: Any) -> Any:
        """Count what goes through."""

        async def counted(scope: dict[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            began = time.perf_counter()

            async def sending(message: dict[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    route = getattr(scope.get("route"), "path", "other")
                    self.requests.labels(scope["method"], route, str(message["status"])).inc()
                    self.seconds.labels(route).observe(time.perf_counter() - began)
                await send(message)

            await app(scope, receive, sending)

        return counted
