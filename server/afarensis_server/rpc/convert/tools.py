"""Tools, tool choices and response formats."""

from collections.abc import Iterable

from afarensis import v1 as pb

from ...domain.runs import TruncationStrategy, TruncationType, Usage
from ...domain.tools import (
    CodeInterpreterTool,
    FunctionTool,
    ResponseFormat,
    ResponseFormatType,
    Tool,
    ToolChoice,
    ToolChoiceMode,
    ToolResources,
)
from ...validation import Reason, Violations
from .values import duration_message, enum_numbers, enum_value, inverse, seconds_value

_CHOICE_MODES = {
    ToolChoiceMode.NONE: pb.TOOL_CHOICE_MODE_NONE,
    ToolChoiceMode.AUTO: pb.TOOL_CHOICE_MODE_AUTO,
    ToolChoiceMode.REQUIRED: pb.TOOL_CHOICE_MODE_REQUIRED,
}
_TRUNCATION_TYPES = enum_numbers(pb.TruncationType, "TRUNCATION_TYPE_", TruncationType)


def tool_message(tool: Tool) -> pb.Tool:
    match tool:
        case CodeInterpreterTool():
            message = pb.CodeInterpreterTool()
            if tool.execution_timeout_seconds is not None:
                message.execution_timeout.CopyFrom(duration_message(tool.execution_timeout_seconds))
            return pb.Tool(code_interpreter=message)
        case FunctionTool():
            return pb.Tool(
                function=pb.FunctionTool(
                    name=tool.name,
                    description=tool.description or "",
                    parameters_json=tool.parameters_json or "",
                    strict=tool.strict,
                )
            )


def tool_value(message: pb.Tool, path: str, found: Violations) -> Tool:
    match message.WhichOneof("tool"):
        case "code_interpreter":
            code = message.code_interpreter
            if not code.HasField("execution_timeout"):
                return CodeInterpreterTool()
            return CodeInterpreterTool(
                seconds_value(code.execution_timeout, f"{path}.code_interpreter.execution_timeout", found)
            )
        case "function":
            function = message.function
            return FunctionTool(
                name=function.name,
                description=function.description or None,
                parameters_json=function.parameters_json or None,
                strict=function.strict if function.HasField("strict") else None,
            )
        case _:
            found.add(
                path, Reason.REQUIRED, f"Missing required parameter: '{path}.code_interpreter' or '{path}.function'."
            )
            return CodeInterpreterTool()


def tools_value(messages: Iterable[pb.Tool], path: str, found: Violations) -> tuple[Tool, ...]:
    return tuple(tool_value(message, f"{path}[{index}]", found) for index, message in enumerate(messages))


def tool_resources_message(resources: ToolResources) -> pb.ToolResources:
    return pb.ToolResources(code_interpreter=pb.CodeInterpreterResources(file_ids=resources.code_interpreter_file_ids))


def tool_resources_value(message: pb.ToolResources) -> ToolResources:
    return ToolResources(tuple(message.code_interpreter.file_ids))


def tool_choice_message(choice: ToolChoice) -> pb.ToolChoice:
    if choice.mode is ToolChoiceMode.CODE_INTERPRETER:
        return pb.ToolChoice(code_interpreter=pb.CodeInterpreterToolChoice())
    if choice.mode is ToolChoiceMode.FUNCTION:
        return pb.ToolChoice(function=pb.FunctionToolChoice(name=choice.function_name or ""))
    return pb.ToolChoice(mode=_CHOICE_MODES[choice.mode])


def tool_choice_value(message: pb.ToolChoice, path: str, found: Violations) -> ToolChoice:
    match message.WhichOneof("choice"):
        case "code_interpreter":
            return ToolChoice(ToolChoiceMode.CODE_INTERPRETER)
        case "function":
            return ToolChoice(ToolChoiceMode.FUNCTION, message.function.name)
        case "mode":
            mode = enum_value(message.mode, inverse(_CHOICE_MODES), f"{path}.mode", found)
            return ToolChoice(mode or ToolChoiceMode.AUTO)
        case _:
            found.add(
                path,
                Reason.REQUIRED,
                f"Missing required parameter: one of 'mode', 'code_interpreter' and 'function' in '{path}'.",
            )
            return ToolChoice()


def response_format_message(response_format: ResponseFormat | None) -> pb.ResponseFormat | None:
    if response_format is None:
        return None
    match response_format.type:
        case ResponseFormatType.TEXT:
            return pb.ResponseFormat(text=pb.TextResponseFormat())
        case ResponseFormatType.JSON_OBJECT:
            return pb.ResponseFormat(json_object=pb.JsonObjectResponseFormat())
        case ResponseFormatType.JSON_SCHEMA:
            return pb.ResponseFormat(
                json_schema=pb.JsonSchemaResponseFormat(
                    name=response_format.name or "",
                    description=response_format.description or "",
                    schema_json=response_format.schema_json or "",
                    strict=response_format.strict,
                )
            )


def response_format_value(message: pb.ResponseFormat, path: str, found: Violations) -> ResponseFormat:
    match message.WhichOneof("format"):
        case "text":
            return ResponseFormat(ResponseFormatType.TEXT)
        case "json_object":
            return ResponseFormat(ResponseFormatType.JSON_OBJECT)
        case "json_schema":
            schema = message.json_schema
            return ResponseFormat(
                ResponseFormatType.JSON_SCHEMA,
                name=schema.name,
                description=schema.description or None,
                schema_json=schema.schema_json,
                strict=schema.strict if schema.HasField("strict") else None,
            )
        case _:
            found.add(
                path,
                Reason.REQUIRED,
                f"Missing required parameter: one of 'text', 'json_object' and 'json_schema' in '{path}'.",
            )
            return ResponseFormat()


def truncation_strategy_message(strategy: TruncationStrategy) -> pb.TruncationStrategy:
    return pb.TruncationStrategy(type=_TRUNCATION_TYPES[strategy.type], last_messages=strategy.last_messages)


def truncation_strategy_value(message: pb.TruncationStrategy, path: str, found: Violations) -> TruncationStrategy:
    last_messages = message.last_messages if message.HasField("last_messages") else None
    default = TruncationType.AUTO if last_messages is None else TruncationType.LAST_MESSAGES
    kind = enum_value(message.type, inverse(_TRUNCATION_TYPES), f"{path}.type", found, default)
    return TruncationStrategy(kind or default, last_messages)


def usage_message(usage: Usage | None) -> pb.TokenUsage | None:
    if usage is None:
        return None
    return pb.TokenUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        estimator=usage.estimator,
    )
