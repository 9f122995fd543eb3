"""Delivery: records of result topics to a webhook. Side effects outside Kafka belong here, and slow handlers.

```
result topic → session (reads, commits) → lanes (order per key) → workers → webhook
                   ▲                                                 │ given up
                   └── unfinished (how far may be committed)         └──▶ delivery_dead_letters
```
Delivered at least once, each with an idempotency key that stays the same however often it comes.
"""
