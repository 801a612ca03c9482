"""What a build did and why: facts as JSON (`facts`), and the page that shows them (`page`)."""

from edgec.report.facts import kernel_rows, model_facts, pass_rows, stage_rows
from edgec.report.page import render

__all__ = ["kernel_rows", "model_facts", "pass_rows", "render", "stage_rows"]
