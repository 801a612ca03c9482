"""What a build did and why: facts as JSON (`facts`), and the page that shows them (`page`)."""

from edgec.report.facts import kernel_rows, model_facts, pass_rows, stage_rows
from edgec.report.page import render
from edgec.report.times import add_measured, share_of_roof, time_facts

__all__ = ["add_measured", "kernel_rows", "model_facts", "pass_rows", "render", "share_of_roof", "stage_rows",
           "time_facts"]
