"""How long deliveries are waited for. Pure: the clock is handed in.

Two bounds, and which one applies depends on whether Kafka answers at all. While it answers, a batch has
its delivery timeout. While nothing answers, batches are not to blame: an absent Kafka has a bound of its
own, and when it is back, deliveries under way get their whole time again.
"""

from __future__ import annotations

_FROZEN_SECONDS = 5.0


class DeliveryBounds:
    """Watches over one connection to Kafka.

    Args:
        delivery_seconds: GENERATOR_DELIVERY_TIMEOUT_SECONDS.
        unavailable_seconds: KAFKA_UNAVAILABLE_SECONDS.
        quiet_seconds: how long no answer need mean nothing, because nothing was asked.
        now: monotonic seconds.
    """

    def __init__(
        self, *, delivery_seconds: float, unavailable_seconds: float, quiet_seconds: float, now: float
    ) -> None:
        self._delivery_seconds = delivery_seconds
        self._unavailable_seconds = unavailable_seconds
        self._quiet_seconds = quiet_seconds
        self._answered_at = now
        self._back_at = now
        self._looked_at = now

    def answered(self, now: float) -> None:
        """Note an answer from Kafka, whatever it says."""
        if now - self._answered_at > self._quiet_seconds:
            self._back_at = now
        self._answered_at = now

    def silent_seconds(self, now: float) -> float:
        """Return for how long Kafka has been silent, beyond what need not mean anything."""
        silent = now - self._answered_at
        return silent if silent > self._quiet_seconds else 0.0

    def exceeded(self, now: float, handed_over_at: float | None) -> str | None:
        """Return why to wait no longer, or None. To be called at least every few seconds.

        Args:
            now: monotonic seconds.
            handed_over_at: when the oldest batch without an acknowledgement was handed over; None: all
                are acknowledged.
        """
        if now - self._looked_at > _FROZEN_SECONDS:
            # This process was frozen and could hear nothing: that is no fault of Kafka's.
            self._answered_at = self._back_at = now
        self._looked_at = now
        silent = now - self._answered_at
        if silent > max(self._unavailable_seconds, self._quiet_seconds):
            return (
                f"Kafka has been unavailable for {silent:.0f} s "
                f"(KAFKA_UNAVAILABLE_SECONDS={self._unavailable_seconds:g})"
            )
        if handed_over_at is None:
            return None
        overdue_at = max(handed_over_at, self._back_at) + self._delivery_seconds
        if self._answered_at >= overdue_at:
            return (
                f"Kafka answers, and has not acknowledged a batch for {now - handed_over_at:.0f} s "
                f"(GENERATOR_DELIVERY_TIMEOUT_SECONDS={self._delivery_seconds:g})"
            )
        return None
