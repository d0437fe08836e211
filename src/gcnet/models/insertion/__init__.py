"""Putting context blocks into a network that already exists, listing them and taking them out again."""

from gcnet.models.insertion.insert import insert
from gcnet.models.insertion.installed import context_parameters, inserted, insertion_records, remove
from gcnet.models.insertion.places import Insertion, Place
from gcnet.models.insertion.rebuild import insert_record
from gcnet.models.insertion.replace import replace

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
