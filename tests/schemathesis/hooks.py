"""What a schema can't say, and so may be answered otherwise than the schema alone would have it.

Each entry is as narrow as it can be: which check, which route, and what the answer says of itself."""

import re

import schemathesis

# Codes of failures are stable; `schemathesis explain CODE` describes them.
ACCEPTED, REJECTED = "ST201", "ST202"

NAME = (
    r"(has \d+ bytes|is .*), allowed (is a string of|are) 1 to 256( bytes)?"
    # More is blank than `\s` of a pattern, such as U+0085.
    r"|is blank, a name is more than that"
)
# Refused although its schema allows it: the route, and what the detail says.
REFUSED = [
    # A schema counts characters, names are counted in bytes.
    (r"", NAME),
    # Nor does it compare two fields, or know who meets a limit.
    (r"/predict/", r"^/candidates: leaves nobody"),
    (r"/predict/", r"^/objective/weights: leaves nothing to choose by"),
    (r"/predict/", r"^/constraints: no agent meets them"),
    # It depends on what was recorded, and names in a policy are names.
    (r"/evaluate$", r"^/policy: (can't be evaluated|version .* is unknown|is \"(agent|version):)"),
    # Formats are annotations.
    (r"/evaluate$", r"^/since: is .* allowed is a time"),
    # What is refused is kept as a dead letter, unlike what the schema rules out.
    (r"/outcomes/litellm$", r"^(none of \d+ events was accepted|body, )"),
    # A verdict names an execution by one field or two, and adds something.
    (r"/feedback$", r"names no execution|adds nothing|^event_id is|^decision_id is"),
    # A model carries the SHA-256 of its content.
    (r"/models/import$", r"^the model is no saved model"),
]
# A yes or no in a query is described as a boolean; whoever writes it otherwise is understood as well.
FLAGS = ("dry_run", "outlook", "verbose", "wait")
YES_OR_NO = ("true", "yes", "on", "1", "", "false", "no", "off", "0")


def is_flag_in_other_words(case):
    given = [str((case.query or {}).get(name, "true")) for name in FLAGS]
    others = [value for value in given if value not in ("true", "false")]
    return bool(others) and all(value.lower() in YES_OR_NO for value in others)


def names_agents_by_numbers(case):
    """Agents may be called by whole numbers, too; described are strings."""
    body = case.body if isinstance(case.body, dict) else {}
    if "/ofrep/" in case.operation.path:
        # There they are in the evaluation context.
        body = body.get("context") if isinstance(body.get("context"), dict) else {}
    lists = [body.get(name) for name in ("candidates", "exclude")]
    names = [name for names in lists if isinstance(names, list) for name in names]
    return any(isinstance(name, int) and not isinstance(name, bool) for name in names)


@schemathesis.hook
def filter_failure(context, failure, case, response):
    path, status = case.operation.path, response.status_code
    # OFREP knows no 422, and has a document of its own.
    of_flag = status == 400 and "/ofrep/" in path
    if failure.code == REJECTED and (status == 422 or of_flag):
        detail = response.json()["errorDetails" if of_flag else "detail"]
        return not any(re.search(at, path) and re.search(says, detail) for at, says in REFUSED)
    # Events are read leniently, and one that can't be understood becomes a dead letter.
    is_lenient = re.search(r"/(outcomes(/batch|/litellm)?|feedback)$", path) and status in (200, 202)
    others = is_flag_in_other_words(case) or names_agents_by_numbers(case)
    return not (failure.code == ACCEPTED and (is_lenient or others))
