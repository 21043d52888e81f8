"""Words that were never taught: alone, and in one request with taught classes. Measured on trained versions."""

from __future__ import annotations

from benchmarks.accuracy.words import Words, figures, measure_words, plot_words
from benchmarks.answers.group import Group, Inputs, Part
from benchmarks.common.pages import number, table
from benchmarks.common.record import Record

_PLOT = "open_vocabulary.png"


def measure(inputs: Inputs) -> Part:
    """Teach both data sets by SeGP-CL with one seed, and ask for words too."""
    found = measure_words(inputs.lineage.model, inputs.data, inputs.work)
    return Part(figures(found), {"sets": [words.as_record() for words in found]})


def section(details: Record) -> str:
    """What was found, as a table."""
    rows = [
        [
            words.dataset,
            number(words.served.harmonic, 3),
            number(words.zero_shot.harmonic, 3),
            number(words.forward_transfer, 3),
            number(words.zero_shot_forward_transfer, 3),
            f"{number(words.before, 3)} and {number(words.after, 3)} on {words.other}",
        ]
        for words in map(Words.of_record, details["sets"])
    ]
    heads = ["taught", "harmonic mean, served", "untouched text", "FWT, text path", "zero-shot", "before and after"]
    return (
        "Trained versions (`segp`, one seed). The harmonic mean is that of the accuracies on images of taught classes "
        "and of those of the next task, among the names of both; the mean over tasks. Before and after: accuracy on "
        f"another data set, whose classes are words.\n\n{table(heads, rows)}"
    )


UNTAUGHT = Group(
    meanings={
        "retention_change": "accuracy on another data set's words after all teaching, less that before",
        "open_harmonic_caltech101": "taught and new words in one request: harmonic mean of accuracies, Caltech-101",
        "open_harmonic_cifar10": "the same, CIFAR-10",
        "fwt_caltech101": "forward transfer of the text path (33), Caltech-101",
        "fwt_zero_shot_caltech101": "that of the untouched model",
        "fwt_cifar10": "forward transfer of the text path, CIFAR-10",
        "fwt_zero_shot_cifar10": "that of the untouched model",
        "last_caltech101": "Last of the fused path, Caltech-101",
        "last_cifar10": "the same, CIFAR-10",
    },
    measure=measure,
    section=section,
    on_features=False,
    plots=lambda details: {_PLOT: plot_words([Words.of_record(words) for words in details["sets"]])},
)
