from edgec.ir.rewrite import remove_unused
from edgec.passes import fold_pad
from edgec.passes.contract import Options, PassReport, pass_name, rewrite
from tests.models import Builder


def chain():
    b = Builder()
    return b.output(b("Neg", b("Exp", b("Neg", b.input("x", 3)))))


def test_rewrite_returns_the_graph_itself_when_no_node_is_a_candidate():
    graph = chain()
    result = rewrite("pass", graph, Options(), lambda *_: True, ("Relu",))
    assert result.graph is graph
    assert not result.report.changed


def test_rewrite_counts_what_rules_answer():
    answers = iter([None, ("some.rule", "because"), True])
    result = rewrite("package.some_pass", chain(), Options(), lambda *_: next(answers))
    assert result.report.name == "some_pass"
    assert (result.report.matched, result.report.applied) == (2, 1)
    (refusal,) = result.report.refused
    assert (refusal.node, refusal.rule, refusal.text, refusal.source) == ("exp", "some.rule", "because", "model.py:2")


def test_rewrite_skips_nodes_that_a_rule_removed():
    b = Builder()
    x = b.input("x", 3)
    first, second = b("Neg", x), b("Neg", x)
    graph = b.output(b("Abs", x))
    offered = []

    def rule(graph, node, options):
        offered.append(node.name)
        return True if remove_unused(graph, [n for n in graph.nodes if n.op == "Neg"]) else None

    rewrite("pass", graph, Options(), rule, ("Neg",))
    assert offered == [first.name]
    assert second.producer is not None  # in the caller's graph


def test_pass_name_is_the_module_s_last_part():
    assert pass_name(fold_pad) == "fold_pad"


def test_report_has_changed_when_something_was_applied():
    assert not PassReport("p", matched=3).changed
    assert PassReport("p", matched=3, applied=1).changed
