"""The command group `probes`. Each command is a module in `probes/commands/`, imported when it is called."""

from __future__ import annotations

from indexer.options import LazyGroup, run
from indexer.store.formats.format import version_words

COMMANDS = {
    "linear": "Logistic regression on the vectors, C chosen by inner validation.",
    "knn": "k nearest neighbours, every k from one exact search.",
    "prototype": "Nearest class mean.",
    "svm": "Support vector machine, linear or with a Gaussian kernel.",
    "mlp": "A small neural network on the vectors.",
    "forest": "A random forest on the vectors.",
    "survival": "Cox regression on the vectors, for times with events.",
    "zero-shot": "Score images against stored class-text vectors, without training.",
    "compare": "The same probe on several tables: paired differences.",
    "benchmark": "A whole experiment on a public data set, from its files to one table.",
    "plan": "Patients that an interval of a wished width takes.",
    "predict": "Apply a fitted probe to rows of a table or to new images.",
    "rerun": "Run a result again and say whether it is reproduced.",
    "report": "Draw a result as one HTML page.",
    "card": "A result as CLAIM and TRIPOD+AI items.",
}

group = LazyGroup(
    name="probes",
    package="probes.commands",
    commands_help=COMMANDS,
    doc="Probes on stored embeddings: patient-grouped splits, intervals, audits. No image is embedded again.",
    version=version_words,
    many_heaps=("benchmark", "predict"),
    epilog="Data on stdout, progress on stderr; --json on every command. Exit 0 done, 1 error, 2 usage. "
    "Not for clinical use.",
)


def main() -> None:
    run(group)


if __name__ == "__main__":
    main()
