"""`keepsight classify`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepsight.cli import console, options
from keepsight.cli.errors import CommandError
from keepsight.cli.intake import skipped_lines
from keepsight.client.api import PathName, ZeroShot


def classify(
    images: Annotated[list[str], typer.Argument(metavar="IMG...", help="Image files, folders or globs.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Predictions per image.")] = 1,
    path: Annotated[PathName, typer.Option(help="Which scores rank: both paths fused, or one of them.")] = "fused",
    labels: Annotated[
        str | None,
        typer.Option(help="Comma-separated words to choose among instead of the served classes."),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help='Prompt for --labels, for example "a photo of a {}, a pet."')
    ] = None,
    with_classes: Annotated[
        bool, typer.Option("--with-classes", help="Choose among the served classes too, beside --labels.")
    ] = False,
    zero_shot: Annotated[
        ZeroShot | None, typer.Option(help="Who scores words that were never taught: the base model or the version.")
    ] = None,
    set_coverage: Annotated[
        float | None,
        typer.Option(metavar="PROBABILITY", help="Also list the labels that have the right one with this probability."),
    ] = None,
    known_share: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of images of learned classes not to be called unknown (0.95)."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="VERSION", help="A stored version that answers instead of the served one."),
    ] = None,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Classify images with the version that is served. Exit code 1 if an image could not be read.

    Of a folder, the files are sent whose names end like those of images; what is skipped is said.
    """
    from keepsight.cli.views import classification_table, problem_sentence
    from keepsight.client.batches import classify_files
    from keepsight.client.folders import find_images

    words = [word.strip() for word in labels.split(",") if word.strip()] if labels is not None else []
    if labels is not None and not words:
        raise CommandError("--labels names no label; give words separated by commas")
    if template is not None and not words:
        raise CommandError("--template is the prompt for --labels; give both")
    if (with_classes or zero_shot is not None) and not words:
        raise CommandError("--with-classes and --zero-shot go with --labels; give both")
    for option, share in (("--set-coverage", set_coverage), ("--known-share", known_share)):
        if share is not None and words:
            raise CommandError(f"{option} is for the served classes; leave it or --labels out")
        if share is not None and not 0 < share < 1:
            raise CommandError(f"{option} is {share:g}; expected a share between 0 and 1, for example 0.9")
    found = find_images(images)
    console.print_notes(skipped_lines(found.skipped))
    with options.connect(url, api_key) as client:
        answer = classify_files(
            client,
            found.files,
            top_k=top_k,
            path=path,
            labels=words,
            template=template,
            with_classes=with_classes,
            zero_shot=zero_shot,
            set_coverage=set_coverage,
            known_share=known_share,
            version=version,
        )
    for group in answer.get("alike", []):
        console.err().print(f"the model cannot tell these labels apart: {', '.join(group)}", markup=False)
    if as_json:
        console.print_json(answer)
    else:
        console.print_table(classification_table(answer["results"]))
    failed = [result for result in answer["results"] if result["error"]]
    if failed:
        if not as_json:
            for result in failed:
                reason = problem_sentence(result["error"] or {})
                console.err().print(f"{result['filename']}: {reason}", markup=False)
        raise CommandError(f"{len(failed)} of {len(found.files)} images could not be classified")
