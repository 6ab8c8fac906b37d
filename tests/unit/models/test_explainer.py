"""What is said of failures that a local endpoint cannot play."""

import openai
import pytest

from afarensis_server.runs.models.endpoint import EndpointSettings
from afarensis_server.runs.models.explainer import Explainer
from afarensis_server.runs.models.protocol import ModelErrorReason


class ConnectTimeout(Exception):
    """Named like the HTTP library's own, which the SDK keeps as the cause."""


class ConnectError(Exception):
    """The same."""


def connection_error(cause: Exception, *, timeout: bool = False) -> openai.APIConnectionError:
    request = openai.OpenAI(api_key="none", base_url="http://host/v1")._client.build_request("POST", "http://host/v1")
    error = openai.APITimeoutError(request) if timeout else openai.APIConnectionError(request=request)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (connection_error(ConnectTimeout(""), timeout=True), "its host does not answer"),
        (connection_error(ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")), "no secure connection"),
        (connection_error(ConnectError("[Errno -2] Name or service not known")), "its host name is not known"),
        (connection_error(ConnectError("[Errno 113] No route to host")), "the connection failed"),
    ],
)
def test_unreachable_endpoints_are_told_apart(error: openai.APIConnectionError, said: str) -> None:
    explainer = Explainer(EndpointSettings("https://user:pw@host:8443/v1"))
    explained = (
        explainer.timed_out(error) if isinstance(error, openai.APITimeoutError) else explainer.unreachable(error)
    )
    assert explained.reason is ModelErrorReason.MODEL_UNREACHABLE
    assert explained.message.startswith(f"The model endpoint https://host:8443/v1 cannot be reached: {said}")
