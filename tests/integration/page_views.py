"""A third topology in one file, as a user of this project would write it: views per page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from services.processor.columns import Columns
from services.processor.settings import ProcessorSettings
from services.processor.state import State
from services.processor.topology import Batch, Outputs, Place
from shared.events import Sourced
from shared.results import encode


class PageView(Sourced, gc=False):
    page: str


class PageCount(msgspec.Struct):
    page: str
    views: int
    partition: int
    offset: int


class PageViewsPartition:
    def __init__(self, place: Place, state: State) -> None:
        self._place = place
        self._views = state.table("views", int)
        self._touched: set[str] = set()

    def examine(self, batch: Batch[PageView]) -> None:
        pass

    def process(self, batch: Batch[PageView], outputs: Outputs) -> None:  # noqa: ARG002 — published in seal
        for event in batch.events:
            self._views.put(event.page, (self._views.get(event.page) or 0) + 1)
            self._touched.add(event.page)

    def seal(self, next_offset: int, updated_at: str, outputs: Outputs) -> None:  # noqa: ARG002
        for page in self._touched:
            count = PageCount(page, self._views.get(page) or 0, self._place.partition, next_offset)
            outputs.publish("page_counts", page.encode(), encode(count))
        self._touched.clear()

    def figures(self) -> dict[str, Any]:
        return {"pages": len(self._views), "views": sum(self._views.values())}


class PageViews:
    name: ClassVar[str] = "pages"
    input: ClassVar[str] = "page_views"
    group: ClassVar[str] = "page-processor"
    results: ClassVar[tuple[str, ...]] = ("page_counts",)
    notices: ClassVar[tuple[str, ...]] = ()
    event: ClassVar[type[Any]] = PageView
    full_event: ClassVar[type[Any]] = PageView

    def __init__(self, settings: ProcessorSettings) -> None:
        pass

    def result_settings(self) -> dict[str, Any]:
        return {}

    def open(self, place: Place, state: State) -> PageViewsPartition:
        return PageViewsPartition(place, state)

    def summarize(self, figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"views": sum(one["views"] for one in figures)}


class ColumnarPageViewsPartition(PageViewsPartition):
    tokens = ()

    def examine_columns(self, columns: Columns) -> bool:  # noqa: ARG002 — decoding has checked everything
        return True

    def process_columns(self, columns: Columns, outputs: Outputs) -> None:  # noqa: ARG002
        groups = columns.groups("page")
        start = 0
        for page, end in zip(columns.texts("page", groups), groups.ends, strict=True):
            self._views.put(page, (self._views.get(page) or 0) + end - start)
            self._touched.add(page)
            start = end


class ColumnarPageViews(PageViews):
    def open(self, place: Place, state: State) -> ColumnarPageViewsPartition:
        return ColumnarPageViewsPartition(place, state)
