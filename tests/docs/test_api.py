"""docs/api.md has every route, scope, field and problem of the server, and the examples everywhere are valid."""

from __future__ import annotations

import re
import typing
from http import HTTPStatus

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

from app import class_facts, correction_schemas, deps, edit_previews, edits, schemas, set_schemas
from app.intake.keep_test_set import SetForm
from app.intake.submission import TaskForm
from app.main import create_app
from app.openapi import described
from app.problems import TABLE
from app.protocols.open_inference import OUTPUTS, InferAnswer
from app.routes import (
    admin,
    classes,
    classify,
    corrections,
    embeddings,
    evaluations,
    health,
    jobs,
    open_inference,
    tasks,
    test_sets,
    versions,
)
from app.schemas import ClassifyOptions
from app.settings import Settings
from exchange.contracts import CorrectionReport, JobState, LabelReport, SetEvaluation, UpdateOutcome
from keepsight.keys import SCOPES
from model_store.test_sets import RemovedTestSet
from model_store.types import Manifest
from segp_cl.prompts import DEFAULT_TEMPLATE
from tests.docs.markdown import DOCS, PAGES, Block, blocks, code, command_lines, read, rows, section

PAGE = DOCS / "api.md"
ROUTERS = (
    admin.router,
    classes.router,
    classify.router,
    corrections.router,
    embeddings.router,
    evaluations.router,
    open_inference.router,
    health.router,
    jobs.router,
    tasks.router,
    test_sets.router,
    versions.router,
)
MODELS: dict[str, type[BaseModel]] = {
    **{
        name: value
        for module in (schemas, set_schemas, correction_schemas, edits, class_facts, edit_previews)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BaseModel)
    },
    "InferAnswer": InferAnswer,
    "Manifest": Manifest,
    "RemovedTestSet": RemovedTestSet,
    "SetEvaluation": SetEvaluation,
    "UpdateOutcome": UpdateOutcome,
    "CorrectionReport": CorrectionReport,
    "LabelReport": LabelReport,
}
EXAMPLES = [block for page in PAGES for block in blocks(page) if block.language == "json"]
NOT_IN_THE_TABLE = {"job-failed": 500}
"""Problems that are not made from an exception: the middleware's, and the one inside a job."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    folder = tmp_path_factory.mktemp("app")
    return create_app(Settings(store=folder / "store", spool=folder / "spool", keys_file=folder / "keys.json"))


def test_the_description_that_servers_answer_with_is_what_the_routes_say(app: FastAPI) -> None:
    assert app.openapi() == described(app), "run scripts/describe"


@pytest.fixture(scope="module")
def routes(app: FastAPI) -> set[str]:
    """`METHOD /path` of every route that the server documents."""
    return {f"{method.upper()} {path}" for path, item in app.openapi()["paths"].items() for method in item}


def overview() -> dict[str, str]:
    """Route to scope, as the page's first table says."""
    table = rows(section(PAGE, "# REST API").partition("\n## ")[0])
    return {re.sub(r"\[`(.+)`\].*", r"\1", cells[0]): code(cells[1]) for cells in table}


def asked_scopes() -> dict[str, str]:
    """Route to scope, as the code asks."""
    aliases = {
        "classify": deps.ClassifyCaller,
        "train": deps.TrainCaller,
        "admin": deps.AdminCaller,
        "any": deps.AnyCaller,
    }
    guards = {typing.get_args(alias)[1].dependency: scope for scope, alias in aliases.items()}
    found = {}
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            scopes = [guards[d.call] for d in route.dependant.dependencies if d.call in guards]
            for method in route.methods or ():
                found[f"{method} {route.path_format}"] = scopes[0] if scopes else "none"
    return found


def test_every_route_is_in_the_overview_and_nothing_else_is(routes: set[str]) -> None:
    assert overview().keys() == routes


def test_every_route_has_a_section(routes: set[str]) -> None:
    text, together = read(PAGE), section(PAGE, "## Health") + section(PAGE, "## Open Inference Protocol")
    once = {re.sub(r"/versions/\{version_id\}(?=/|$)", "", route) if "/v2/" in route else route for route in routes}
    once -= {"GET /v2/models/{name}/ready"}  # "and its `/ready`"
    assert {route for route in once if f"## `{route}`\n" not in text and f"`{route}`" not in together} == set()


def test_every_output_of_the_open_inference_protocol_is_listed() -> None:
    table = rows(section(PAGE, "## Open Inference Protocol"))
    listed = {code(name): cells[1].split()[0] for cells in table for name in cells[0].split(", ")}
    assert listed == OUTPUTS


def test_the_overview_names_the_scope_that_each_route_asks_for() -> None:
    assert overview() == asked_scopes()
    assert {scope for scope in overview().values() if scope not in ("any", "none")} == set(SCOPES)


def test_every_problem_is_listed_with_its_status_and_wait() -> None:
    listed = {code(cells[0]): (int(cells[1]), cells[2]) for cells in rows(section(PAGE, "## Problems"))}
    expected = {answer.slug: (answer.status, str(answer.retry_after_s or "")) for answer in TABLE.values()}
    expected |= {slug: (status, "") for slug, status in NOT_IN_THE_TABLE.items()}
    assert listed == expected


def test_http_s_own_problems_are_named_as_the_server_names_them() -> None:
    said = section(PAGE, "## Problems").rpartition("have their standard status")[2]
    for status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.BAD_REQUEST):
        assert f"`{status.phrase.lower().replace(' ', '-')}`" in said


def test_every_option_of_classify_is_listed_with_its_default() -> None:
    listed = {code(cells[0]): code(cells[1]) for cells in rows(section(PAGE, "## `POST /v1/classify`"))}
    fields = ClassifyOptions.model_fields
    assert listed.keys() == fields.keys()
    assert listed["top_k"] == str(fields["top_k"].default)
    assert listed["path"] == fields["path"].default
    assert listed["template"] == DEFAULT_TEMPLATE


def test_every_field_of_a_task_is_listed_with_its_default() -> None:
    listed = {code(cells[0]): code(cells[1]) for cells in rows(section(PAGE, "## `POST /v1/tasks`"))}
    fields = TaskForm.model_fields
    assert listed.keys() == {"archive", *fields}
    required = {name for name, said in listed.items() if said == "required"}
    assert required == {"archive"} | {name for name, field in fields.items() if field.is_required()}
    assert listed["template"] == fields["template"].default
    assert (listed["extend"], listed["config"], listed["seed"]) == ("false", "{}", "0")


def test_every_field_of_a_test_set_is_listed() -> None:
    listed = {code(cells[0]) for cells in rows(section(PAGE, "## `PUT /v1/test-sets/{name}`"))}
    assert listed == {"archive", *SetForm.model_fields}


def test_every_state_of_a_job_is_named() -> None:
    text = section(PAGE, "## `GET /v1/jobs`")
    assert {state for state in JobState if f"`{state}`" not in text} == set()


@pytest.mark.parametrize("block", EXAMPLES, ids=[f"{b.page.name}-{b.tag}-{n}" for n, b in enumerate(EXAMPLES)])
def test_examples_are_valid(block: Block) -> None:
    assert block.tag in MODELS, f"the block must name its model, as in ```json ClassifyAnswer; got {block.tag!r}"
    MODELS[block.tag].model_validate_json(block.text, extra="forbid" if block.tag != "Problem" else None)


def test_the_page_has_an_example_of_every_answer_that_is_not_trivial() -> None:
    shown = {block.tag for block in blocks(PAGE) if block.language == "json"}
    expected = {"ClassifyAnswer", "ClassifyBody", "TaskAccepted", "JobList", "VersionList", "Manifest", "ClassList"}
    expected |= {
        "Gate",
        "GateChange",
        "ClassMergeBody",
        "ClassPatch",
        "Comparison",
        "ContributionReport",
        "EditAccepted",
        "EditPreview",
        "PreviewBody",
        "VersionClasses",
        "EvaluateAccepted",
        "EvaluateBody",
        "MergeAccepted",
        "MergeBody",
        "CorrectionBody",
        "CorrectionList",
        "CorrectionReport",
        "CorrectionView",
        "CorrectionsAccepted",
        "LabelReport",
        "Moved",
        "Rollout",
        "PinBody",
        "Pinned",
        "PromoteBody",
        "PruneBody",
        "Pruned",
        "RollbackBody",
        "Problem",
        "Ready",
        "RemovedTestSet",
        "Report",
        "SetEvaluation",
        "SetList",
        "SetStored",
        "UpdateOutcome",
        "VersionVerified",
    }
    assert expected | {"EmbeddingsBody", "Embeddings", "InferAnswer"} == shown


def test_every_curl_asks_for_a_route_that_exists(routes: set[str]) -> None:
    commands = [(page, words) for page in PAGES for words in command_lines(page) if words[0] == "curl"]
    assert commands
    for page, words in commands:
        url = next(word for word in words if word.startswith("http://"))
        method = "PUT" if "PUT" in words else "POST" if {"-F", "-d", "--data-binary"} & set(words) else "GET"
        path = re.sub(r"^http://127\.0\.0\.1:8000", "", url).partition("?")[0]
        patterns = [re.sub(r"\{\w+\}", "[^/]+", route) for route in routes]
        assert any(re.fullmatch(pattern, f"{method} {path}") for pattern in patterns), f"{page.name}: {words}"
