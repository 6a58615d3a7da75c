"""The end of a detection inside an ONNX graph: suppression or the choice of the best, by a PostRule.

The same steps as detloom.geometry.postprocess, in operators that every ONNX runtime has. What comes out has a fixed
size: `boxes` [batch, K, 4], best first; `scores` [batch, K], 0 where there are no more; `labels` int64 [batch, K]; and
`masks` [batch, K, h, w] where there were some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detloom.geometry import PostRule

PREFIX = "finish/"


def finish_graph(model: Any, rule: PostRule) -> None:
    """Change an onnx.ModelProto with the outputs boxes [batch, N, 4] and scores [batch, N, C], both sizes known."""
    graph = _Graph(model)
    boxes, scores = graph.take_output("boxes"), graph.take_output("scores")
    masks = graph.take_output("masks") if graph.has_output("masks") else ""
    count, classes = graph.sizes["scores"]
    if rule.kind == "topk":
        found, rows, labels = _best_pairs(graph, scores, rule, count * classes, classes)
    else:
        found, rows, labels = _suppressed(graph, boxes, scores, rule, count, classes)
    kept = min(rule.max_detections, count * classes if rule.kind == "topk" else min(count, rule.candidates))
    graph.give("boxes", graph.rows_of(boxes, rows), "FLOAT", (kept, 4))
    graph.give("scores", found, "FLOAT", (kept,))
    graph.give("labels", labels, "INT64", (kept,))
    if masks:
        graph.give("masks", graph.rows_of(masks, rows), "FLOAT", (kept, *graph.sizes["masks"][1:]))


def _best_pairs(graph: _Graph, scores: str, rule: PostRule, pairs: int, classes: int) -> tuple[str, str, str]:
    """The best (box, class) pairs: a box may be there twice."""
    flat = graph.add("Reshape", scores, graph.ints(0, -1))
    best, pair = graph.best(flat, min(rule.max_detections, pairs))
    divisor = graph.ints(classes)
    return graph.above(best, rule), graph.add("Div", pair, divisor), graph.add("Mod", pair, divisor)


def _suppressed(
    graph: _Graph, boxes: str, scores: str, rule: PostRule, count: int, classes: int
) -> tuple[str, str, str]:
    """One class a box, its best; suppression within each class."""
    label = graph.add("ArgMax", scores, axis=2, keepdims=1)  # [batch, N, 1]
    best = graph.add("GatherElements", scores, label, axis=2)
    label, best = (graph.add("Squeeze", value, graph.ints(2)) for value in (label, best))
    candidates = min(count, rule.candidates)
    best, rows = graph.best(best, candidates)
    label, boxes = graph.add("GatherElements", label, rows, axis=1), graph.rows_of(boxes, rows)

    own = graph.add("Unsqueeze", label, graph.ints(1))  # [batch, 1, M]
    mine = graph.add("Equal", own, graph.ints(*range(classes), shape=(1, classes, 1)))
    per_class = graph.add("Where", mine, graph.add("Unsqueeze", best, graph.ints(1)), graph.floats(0.0))
    kept = graph.add(
        "NonMaxSuppression",
        boxes,
        per_class,
        graph.ints(min(rule.max_detections, candidates)),
        graph.floats(rule.nms_threshold),
        graph.floats(rule.score_threshold),
    )  # [found, 3]: image, class, box
    nothing = graph.add("ConstantOfShape", graph.add("Shape", per_class))
    places = graph.add("ScatterND", nothing, kept, graph.add("GatherND", per_class, kept))
    left = graph.add("Squeeze", graph.add("GatherElements", places, own, axis=1), graph.ints(1))  # [batch, M]
    found, order = graph.best(left, min(rule.max_detections, candidates))
    return found, graph.add("GatherElements", rows, order, axis=1), graph.add("GatherElements", label, order, axis=1)


class _Graph:
    """Adds nodes to the end of a graph. Values are known by their names."""

    def __init__(self, model: Any) -> None:
        self.graph = model.graph
        self.batch = self.graph.input[0].type.tensor_type.shape.dim[0]
        # Of each output, without the batch.
        self.sizes = {
            output.name: [dim.dim_value for dim in output.type.tensor_type.shape.dim[1:]]
            for output in self.graph.output
        }
        self._made = 0

    def has_output(self, name: str) -> bool:
        return name in self.sizes

    def take_output(self, name: str) -> str:
        """The value that was this output, under another name: it is one no longer."""
        inner = f"{PREFIX}{name}"
        for node in self.graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if one == name else one for one in names]
        (output,) = (one for one in self.graph.output if one.name == name)
        self.graph.output.remove(output)
        return inner

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Name of the first output; the others end in 1, 2 and so on."""
        import onnx

        self._made += 1
        names = [f"{PREFIX}{operator}{self._made}.{place}" for place in range(outputs)]
        label = f"{PREFIX}{operator}{self._made}"
        self.graph.node.append(onnx.helper.make_node(operator, inputs, names, name=label, **attributes))
        return names[0]

    def best(self, values: str, count: int) -> tuple[str, str]:
        """The highest of [batch, N], best first, equal ones in their order: values and places, [batch, count]."""
        first = self.add("TopK", values, self.ints(count), outputs=2, axis=1)
        return first, first[:-1] + "1"

    def rows_of(self, values: str, rows: str) -> str:
        """values: [batch, N, ...]; rows: [batch, K]. Returns [batch, K, ...]."""
        return self.add("GatherND", values, self.add("Unsqueeze", rows, self.ints(2)), batch_dims=1)

    def above(self, scores: str, rule: PostRule) -> str:
        """0 where a score is not above the threshold."""
        enough = self.add("Greater", scores, self.floats(rule.score_threshold))
        return self.add("Where", enough, scores, self.floats(0.0))

    def ints(self, *values: int, shape: Sequence[int] | None = None) -> str:
        return self._constant("INT64", values, shape)

    def floats(self, *values: float) -> str:
        return self._constant("FLOAT", values, None)

    def _constant(self, kind: str, values: Sequence[float], shape: Sequence[int] | None) -> str:
        import onnx

        self._made += 1
        name = f"{PREFIX}constant{self._made}"
        data_type = getattr(onnx.TensorProto, kind)
        self.graph.initializer.append(onnx.helper.make_tensor(name, data_type, shape or (len(values),), values))
        return name

    def give(self, name: str, value: str, kind: str, sizes: Sequence[int]) -> None:
        """Make a value an output of the graph, by its public name."""
        import onnx

        self.graph.node.append(onnx.helper.make_node("Identity", [value], [name], name=f"{PREFIX}{name}.out"))
        output = onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), ["batch", *sizes])
        output.type.tensor_type.shape.dim[0].CopyFrom(self.batch)
        self.graph.output.append(output)
