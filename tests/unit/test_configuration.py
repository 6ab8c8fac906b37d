import tomllib
from pathlib import Path

import pytest

from afarensis_server import configuration
from afarensis_server.configuration import ConfigurationError, load

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("AFARENSIS_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "afarensis.toml"
    path.write_text('[sandbox]\npool_size = 3\nmemory_bytes = "2GiB"\nprocesses = 7\n')
    return path


def test_flags_win_over_the_environment_and_that_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFARENSIS_SANDBOX_POOL_SIZE", "4")
    monkeypatch.setenv("AFARENSIS_SANDBOX_PROCESSES", "8")
    loaded = load({"sandbox.pool_size": "5"}, file)
    sandbox = loaded.settings.sandbox
    assert (sandbox.pool_size, sandbox.processes, sandbox.memory_bytes) == (5, 8, 2 * 1024**3)
    sources = {setting.path: setting.source for setting in loaded}
    assert sources["sandbox.pool_size"] == "flag"
    assert sources["sandbox.processes"] == "environment"
    assert sources["sandbox.memory_bytes"] == "file"
    assert sources["sandbox.open_files"] == "default"


def test_file_is_named_by_the_environment_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFARENSIS_CONFIG", str(file))
    assert load().settings.sandbox.pool_size == 3


@pytest.mark.parametrize("name", ["AFARENSIS_SANDBOX_POOLSIZE", "AFARENSIS_POOL_SIZE", "AFARENSIS_X"])
def test_variable_that_is_no_setting_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError, match=f"The environment variable {name} is not a setting"):
        load()


def test_suggestion_ends_with_one_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, end in (
        ("sandbox.memory_byte", "did you mean sandbox.memory_bytes?"),
        ("sandbox.zzzzzzzz", "'sandbox.zzzzzzzz'."),
    ):
        with pytest.raises(ConfigurationError) as refused:
            load({name: "1"})
        assert str(refused.value).endswith(end)
    monkeypatch.setenv("AFARENSIS_SANDBOX_POOLSIZE", "1")
    with pytest.raises(ConfigurationError, match=r"did you mean AFARENSIS_SANDBOX_POOL_SIZE\? Unset it"):
        load()


def test_close_name_is_suggested() -> None:
    with pytest.raises(
        ConfigurationError, match=r"There is no setting 'sandbox.poolsize'; did you mean sandbox.pool_s"
    ):
        load({"sandbox.poolsize": "1"})


@pytest.mark.parametrize(
    "name",
    ["AFARENSIS_SERVICE_HOST", "AFARENSIS_PORT", "AFARENSIS_SERVER_PORT", "AFARENSIS_SERVER_PORT_50051_TCP_ADDR"],
)
def test_variables_that_kubernetes_puts_beside_a_service_are_passed_over(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:50051")
    assert load().settings.server.listen == "127.0.0.1:50051"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[sandbox\n", "is not valid TOML"),
        ("[sandboxes]\n", "There is no section 'sandboxes' (from the configuration file); did you mean sandbox?"),
        ('listen = "127.0.0.1:1"\n', "`listen` (from the configuration file) must stand below [server] or [http]."),
        ("ttl_seconds = 5\n", "`ttl_seconds` (from the configuration file) must stand below [runs]."),
        ("sandbox = 1\n", "'sandbox' (from the configuration file) must be a section, like [sandbox]."),
        ("[sandbox]\npool = 1\n", "There is no setting 'sandbox.pool' (from the configuration file)"),
    ],
)
def test_file_that_is_wrong_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "afarensis.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load(file=path)
    assert expected in str(refused.value)


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file or directory"):
        load(file=tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("sandbox.pool_size", "many", "sandbox.pool_size: input should be a valid integer"),
        ("sandbox.memory_bytes", "1 horse", "sandbox.memory_bytes: write bytes or a size like 512MiB (got '1 horse')."),
        ("sandbox.memory_bytes", "much", "sandbox.memory_bytes: write bytes or a size like 512MiB (got 'much')."),
        (
            "sandbox.memory_bytes",
            "512",
            "512 bytes is too little for an interpreter; the least is 64MiB. Sizes without a unit are bytes.",
        ),
        ("sandbox.disk_bytes", "0", "sandbox.disk_bytes: 0 bytes is too little for an interpreter; the least is 1MiB."),
        (
            "sandbox.cpu_cores",
            "0.01",
            "sandbox.cpu_cores: 0.01 is too little for an interpreter; the least is 0.05.",
        ),
        ("sandbox.cpu_cores", "nan", "sandbox.cpu_cores: nan is too little for an interpreter; the least is 0.05."),
        ("sandbox.processes", "1", "sandbox.processes: 1 is too little for an interpreter; the least is 4."),
        ("sandbox.open_files", "-1", "sandbox.open_files: -1 is too little for an interpreter; the least is 32."),
        ("sandbox.disk_inodes", "1", "sandbox.disk_inodes: 1 is too little for an interpreter; the least is 16."),
        ("server.log_level", "loud", "server.log_level: input should be 'debug', 'info', 'warning' or 'error'"),
        ("server.listen", "50051", "listen must be host:port"),
        ("server.listen", "127.0.0.1:99999", "listen must be host:port"),
        ("sandbox.execution_seconds", "601", "execution_seconds must not be more than max_execution_seconds"),
    ],
)
def test_bad_value_is_refused_in_one_sentence(path: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load({path: value})
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bad_variable_is_named_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFARENSIS_SANDBOX_POOL_SIZE", "many")
    with pytest.raises(ConfigurationError, match="AFARENSIS_SANDBOX_POOL_SIZE: input should be a valid integer"):
        load()


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.168.0.7", "example.org"])
def test_address_that_others_reach_needs_its_flag(host: str) -> None:
    with pytest.raises(ConfigurationError, match="--insecure-bind"):
        load({"server.listen": f"{host}:50051"})
    loaded = load({"server.listen": f"{host}:50051", "server.insecure_bind": True})
    assert loaded.settings.server.host == host.strip("[]")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:50051", "[::1]:50051", "127.1.2.3:1"])
def test_loopback_needs_none(address: str) -> None:
    assert load({"server.listen": address}).settings.server.listen == address


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFARENSIS_OPENAI_API_KEY", "sk-secret")
    loaded = load()
    assert "sk-secret" not in "".join(setting.shown for setting in loaded)
    assert "sk-secret" not in configuration.to_toml(loaded)
    assert "sk-secret" not in repr(loaded)
    assert loaded.settings.openai.api_key.get_secret_value() == "sk-secret"


def test_what_is_shown_as_a_file_loads_as_the_same(tmp_path: Path) -> None:
    loaded = load({"server.data_dir": '/tmp/a "b"\\c', "sandbox.pool_size": "9"})
    path = tmp_path / "saved.toml"
    path.write_text(configuration.to_toml(loaded))
    assert load(file=path).settings == loaded.settings


def test_every_setting_is_explained() -> None:
    for section, fields in configuration.sections():
        for name, field in fields.items():
            assert field.description, f"{section}.{name}"


def test_reference_is_up_to_date() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text()
    assert written == configuration.reference(), "run: afarensis-server config reference > docs/configuration.md"


def test_default_file_is_valid_toml_with_every_section() -> None:
    assert set(tomllib.loads(configuration.to_toml(load()))) >= {"server", "sandbox", "runs", "limits"}


ENDPOINTS = """
[[models.endpoints]]
name = "claude"
provider = "anthropic"
api_key = "sk-secret"
models = ["claude-*"]

[[models.endpoints]]
name = "local"
base_url = "http://127.0.0.1:8000/v1"
models = ["qwen3*", "llama3"]
concurrency = 4
context_tokens = 32768
vision = false
"""


def test_endpoints_are_tables_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "afarensis.toml"
    path.write_text(ENDPOINTS)
    loaded = load(file=path)
    claude, local = loaded.settings.models.endpoints
    assert (claude.provider, claude.models, claude.concurrency) == ("anthropic", ("claude-*",), 200)
    assert (local.provider, local.models, local.concurrency) == ("openai", ("qwen3*", "llama3"), 4)
    shown = {setting.path: setting.shown for setting in loaded}["models.endpoints"]
    assert 'name = "local"' in shown
    saved = configuration.to_toml(loaded)
    assert "sk-secret" not in shown + saved + repr(loaded)
    # Without the key it is the same.
    path.write_text(saved)
    assert [endpoint.name for endpoint in load(file=path).settings.models.endpoints] == ["claude", "local"]


@pytest.mark.parametrize("source", ["flag", "environment"])
def test_endpoints_elsewhere_are_json(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = '[{"name": "local", "base_url": "http://127.0.0.1:8000/v1"}]'
    if source == "environment":
        monkeypatch.setenv("AFARENSIS_MODELS_ENDPOINTS", value)
    loaded = load({"models.endpoints": value} if source == "flag" else {})
    assert [endpoint.name for endpoint in loaded.settings.models.endpoints] == ["local"]


@pytest.mark.parametrize("source", ["flag", "environment"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[{", "must be a JSON list"),
        ('{"name": "a", "api_key": "sk-secret"}', "input should be a valid tuple."),
        ('[{"api_key": "sk-secret"}]', "[0].name: field required."),
        ('[{"name": "a", "apikey": "sk-secret"}]', "[0].apikey: extra inputs are not permitted."),
        ('[{"name": "a", "api_key": ["sk-secret"]}]', "[0].api_key: input should be a valid string."),
        ('[{"name": "a", "concurrency": 0}]', "[0].concurrency: input should be greater than 0 (got 0)."),
        ('["sk-secret"]', "[0]: input should be a valid dictionary or instance of EndpointSection."),
    ],
)
def test_endpoint_with_a_mistake_is_refused_without_its_key(
    source: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "environment":
        monkeypatch.setenv("AFARENSIS_MODELS_ENDPOINTS", value)
    with pytest.raises(ConfigurationError) as refused:
        load({"models.endpoints": value} if source == "flag" else {})
    assert said in str(refused.value)
    assert "sk-secret" not in str(refused.value)
