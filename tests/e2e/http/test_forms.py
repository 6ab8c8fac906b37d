"""Forms with a file: how its name is read, and what is wrong with the rest."""

import httpx2
import pytest

from tests.e2e.http.test_refusals import told

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def send(http: httpx2.AsyncClient, disposition: str) -> httpx2.Response:
    """Upload a file whose part begins so."""
    parts = f'--BB\r\nContent-Disposition: form-data; name="file"; {disposition}\r\n\r\nx\r\n'
    purpose = '--BB\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n--BB--\r\n'
    kind = {"content-type": "multipart/form-data; boundary=BB"}
    return await http.post("/files", content=(parts + purpose).encode(), headers=kind)


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("filename*=UTF-8''%E2%82%AC%20rates.txt", "€ rates.txt"),
        ("filename*=iso-8859-1'de'gr%F6%DFe.csv", "größe.csv"),
        ("filename=\"rates.txt\"; filename*=utf-8''%E2%82%AC.txt", "€.txt"),
        ("filename*=utf-8''%E2%82%AC.txt; filename=\"rates.txt\"", "€.txt"),
        ('filename="größe*.csv"', "größe*.csv"),
        ("filename=\"a; filename*=utf-8''b\"", "a; filename*=utf-8''b"),
    ],
)
async def test_names_beyond_ascii_are_read_in_either_way(http: httpx2.AsyncClient, disposition: str, name: str) -> None:
    answer = await send(http, disposition)
    assert answer.status_code == 200, answer.text
    assert answer.json()["filename"] == name


async def test_names_that_cannot_be_are_refused_however_they_are_written(http: httpx2.AsyncClient) -> None:
    assert told(await send(http, "filename*=utf-8''..%2Fx"))[1] == "filename"
    assert told(await send(http, "filename*=utf-8''"))[1] == "filename"
    assert told(await send(http, "filename*=utf-8''%FF"))[2] == "invalid_form"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"expires_after[anchor]": "last_active_at", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "1"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "-3600"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": ""}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "3_600"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "+3600"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": " 3600"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "3.6e3"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "٣٦٠٠"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "nan"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "9" * 400}, "expires_after[seconds]"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_fields_that_are_wrong_are_named_as_they_were_sent(
    http: httpx2.AsyncClient, fields: dict[str, str], param: str
) -> None:
    answer = await http.post("/files", data={"purpose": "assistants", **fields}, files={"file": ("a", b"x")})
    message, named, _ = told(answer)
    assert named == param
    assert param in message or "Supported values are" in message


async def test_content_type_of_a_file_is_named_as_what_it_is(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/files", data={"purpose": "assistants"}, files={"file": ("a", b"x", "no type")})
    message, param, _ = told(answer)
    assert (message, param) == (
        "Invalid 'content_type': 'no type' is not a media type like 'text/csv'.",
        "content_type",
    )


async def test_file_expires_when_its_form_says(http: httpx2.AsyncClient) -> None:
    fields = {"purpose": "assistants", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = (await http.post("/files", data=fields, files={"file": ("a", b"x")})).json()
    assert file["expires_at"] - file["created_at"] == 3600
