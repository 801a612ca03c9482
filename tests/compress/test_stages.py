from edgec.compress import stages
from edgec.compress.prune.channels import PruneOptions
from edgec.compress.train.loop import Recipe
from tests.compress.train.nets import classifier, samples


def test_pruning_in_steps_reads_once_and_chooses_by_some_of_what_trains(monkeypatch):
    monkeypatch.setattr(stages, "_EVIDENCE", 16)
    stage = stages.prune_in_steps(classifier(), PruneOptions(cost_ratio=0.5, criterion="taylor"),
                                  iter(samples(48)), Recipe(epochs=1, batch=16), steps=2)
    assert [step["prune"]["samples"] for step in stage.facts["steps"]] == [16, 16]
    assert [step["recover"]["samples"] for step in stage.facts["steps"]] == [48, 48]
    assert stage.facts["macs"][1] <= 0.5 * stage.facts["macs"][0]
