"""Insertion of context blocks into existing networks, their listing and removal."""

from gcnet.insertion.attach import context_parameters, inserted, insertion_records, refuse_fused, remove
from gcnet.insertion.insert import insert, insert_record, replace
from gcnet.insertion.record import Insertion, Site

__all__ = [
    "Insertion",
    "Site",
    "context_parameters",
    "insert",
    "insert_record",
    "inserted",
    "insertion_records",
    "refuse_fused",
    "remove",
    "replace",
]
