"""Every setting of the server, with its default and its meaning.

A setting is named by its section and its name: ``sandbox.pool_size`` in flags (``--set``) and in the TOML file,
``AFARENSIS_SANDBOX_POOL_SIZE`` in the environment. `configuration` loads them. The parts of the server do not know
this module: `parts` hands each what concerns it.
"""

from pydantic import model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .base import Section
from .edges import HttpSection, ServerSection, is_loopback
from .kept import EventsSection, FilesSection, StoreSection
from .limits import LimitsSection
from .models import Endpoint, EndpointSection, ModelsSection, OpenAISection
from .runs import RunsSection
from .sandbox import LEAST, DockerSection, SandboxSection

__all__ = ["LEAST", "Endpoint", "EndpointSection", "OpenAISection", "SandboxSection", "Section", "Settings"]


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix="AFARENSIS_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
    )

    server: ServerSection = ServerSection()
    store: StoreSection = StoreSection()
    files: FilesSection = FilesSection()
    sandbox: SandboxSection = SandboxSection()
    docker: DockerSection = DockerSection()
    runs: RunsSection = RunsSection()
    events: EventsSection = EventsSection()
    openai: OpenAISection = OpenAISection()
    models: ModelsSection = ModelsSection()
    http: HttpSection = HttpSection()
    limits: LimitsSection = LimitsSection()

    @model_validator(mode="after")
    def _check_http(self) -> "Settings":
        if self.http.listen and not self.server.insecure_bind and not is_loopback(self.http.host):
            raise ValueError(
                f"http.listen would let other machines connect to {self.http.host} without encryption and "
                "authentication; if that is wanted, set server.insecure_bind (--insecure-bind)"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is passed and nothing else: `configuration` merges the sources, since it tells them apart."""
        return (init_settings,)
