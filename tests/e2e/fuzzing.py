"""Requests at random, of what an OpenAPI document allows and of what it forbids."""

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance


def fuzz(url: str, routes: set[str], mode: GenerationMode) -> None:
    """Asks routes of a server: what the document allows is answered as it says, or refused with a reason; what it forbids is refused.

    Raises:
        AssertionError: a route does otherwise.
    """
    document = schemathesis.openapi.from_url(f"{url}/docs.json")
    for operation in (result.ok() for result in document.get_all_operations()):
        if operation.path not in routes:
            continue

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        def answers_well(case: schemathesis.Case) -> None:
            answer = case.call()
            assert answer.status_code < 500, case.as_curl_command()
            if answer.status_code in (200, 202):
                case.validate_response(answer, checks=[response_schema_conformance, content_type_conformance])
            else:
                assert answer.json()  # says why

        answers_well()
