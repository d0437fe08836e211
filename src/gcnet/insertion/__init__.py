"""Putting context blocks into a network that already exists, listing them and taking them out again."""

from gcnet.insertion.attach import context_parameters, inserted, insertion_records, remove
from gcnet.insertion.insert import insert, insert_record, replace
from gcnet.insertion.record import Insertion, Place

__all__ = [
    "Insertion",
    "Place",
    "context_parameters",
    "insert",
    "insert_record",
    "inserted",
    "insertion_records",
    "remove",
    "replace",
]
