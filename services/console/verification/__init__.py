"""`tandem verify`: everything recomputed from the input, the plain way, and compared. Pure.

Nothing here knows Kafka: `services.console.verifier` does the reading.

rules        the settings that results depend on, as they were at each offset
continuity   which numbers of each source were heard
admission    which records count, which are duplicates, which are dead letters
recompute    statistics, windows, purchases and alerts of one input partition
queues       published records, held until the input gets there
matching     what had to be published once, against what was
dead_letters a dead letter against the record it was made of
partitions   all checks of one input partition
findings     the differences
"""
