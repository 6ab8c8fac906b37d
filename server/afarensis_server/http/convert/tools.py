"""Tools, and how a model is to use them."""

import json

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
from ...validation import Reason
from ..fields import Fields
from .values import Json

_TOOLS = ("code_interpreter", "function")
_SEARCHES = ("file_search", "retrieval")


def tool_json(tool: Tool) -> Json:
    match tool:
        case CodeInterpreterTool():
            return {"type": "code_interpreter"}
        case FunctionTool():
            function: Json = {"name": tool.name}
            if tool.description is not None:
                function["description"] = tool.description
            if tool.parameters_json is not None:
                function["parameters"] = json.loads(tool.parameters_json)
            function["strict"] = bool(tool.strict)
            return {"type": "function", "function": function}


def tools_value(fields: Fields, name: str = "tools") -> tuple[Tool, ...] | None:
    """The tools in a field; None when it is not given."""
    given = fields.objects(name)
    if given is None:
        return None
    tools = tuple(_tool_value(tool) for tool in given)
    return tuple(tool for tool in tools if tool is not None)


def _tool_value(fields: Fields) -> Tool | None:
    kind = fields.string("type")
    tool: Tool | None = None
    if kind in _SEARCHES:
        text = (
            f"Invalid value: '{kind}'. Supported values are: 'code_interpreter' and 'function'. This server has no "
            "search in files: give files to the code interpreter, which reads them."
        )
        fields.found.add(f"{fields.path}type", Reason.INVALID_VALUE, text)
        fields.raw(kind)
    elif kind == "code_interpreter":
        tool = CodeInterpreterTool()
    elif kind == "function":
        tool = _function_value(fields)
    elif kind is None:
        fields.required("type")
    else:
        fields.unsupported("type", kind, _TOOLS)
    fields.finish()
    return tool


def _function_value(fields: Fields) -> FunctionTool | None:
    function = fields.nested("function")
    if function is None:
        fields.required("function")
        return None
    parameters = function.nested("parameters")
    tool = FunctionTool(
        name=function.string("name") or "",
        description=function.string("description"),
        parameters_json=None if parameters is None else json.dumps(function.raw("parameters"), ensure_ascii=False),
        strict=function.boolean("strict"),
    )
    function.finish()
    return tool


def resources_json(resources: ToolResources, tools: tuple[Tool, ...] | None = None) -> Json:
    """What tools may use. An object without the code interpreter and without files has none."""
    file_ids = list(resources.code_interpreter_file_ids)
    has_tool = tools is not None and any(isinstance(tool, CodeInterpreterTool) for tool in tools)
    return {"code_interpreter": {"file_ids": file_ids}} if file_ids or has_tool else {}


def resources_value(fields: Fields) -> ToolResources | None:
    """The files in ``tool_resources``, or in ``file_ids`` as v1 has them; None when those of code are not named.

    Null names them, too: none are left then.
    """
    file_ids = fields.strings("file_ids")
    are_named = fields.has("tool_resources")
    if (resources := fields.nested("tool_resources")) is not None:
        are_named = resources.has("code_interpreter")
        if (code := resources.nested("code_interpreter")) is not None:
            file_ids = code.strings("file_ids")
            code.finish()
        search = resources.nested("file_search")
        if search is not None and any(search.raw(name) for name in ("vector_store_ids", "vector_stores")):
            text = f"Invalid '{search.path[:-1]}': this server has no search in files."
            fields.found.add(search.path[:-1], Reason.INVALID_VALUE, text)
        resources.finish()
    return ToolResources(tuple(file_ids or ())) if are_named or file_ids is not None else None


def response_format_json(response_format: ResponseFormat | None) -> object:
    if response_format is None:
        return "auto"
    if response_format.type is not ResponseFormatType.JSON_SCHEMA:
        return {"type": response_format.type.value}
    schema: Json = {"name": response_format.name}
    if response_format.description is not None:
        schema["description"] = response_format.description
    schema["schema"] = json.loads(response_format.schema_json or "{}")
    schema["strict"] = bool(response_format.strict)
    return {"type": "json_schema", "json_schema": schema}


def response_format_value(fields: Fields, name: str = "response_format") -> ResponseFormat | None:
    """``auto``, as well as nothing, leaves the form to the model."""
    given = fields.raw(name)
    if given is None or given == "auto":
        return None
    nested = fields.nested(name)
    if nested is None:
        return None
    kind = nested.choice("type", ("text", "json_object", "json_schema"))
    if kind is None:
        if nested.raw("type") is None:
            nested.required("type")
        return None
    response_format = ResponseFormat(ResponseFormatType(kind))
    if kind == "json_schema":
        schema = nested.nested("json_schema")
        if schema is None:
            nested.required("json_schema")
            return None
        response_format = ResponseFormat(
            ResponseFormatType.JSON_SCHEMA,
            name=schema.string("name") or "",
            description=schema.string("description"),
            schema_json=json.dumps(schema.raw("schema"), ensure_ascii=False) if schema.nested("schema") else "{}",
            strict=schema.boolean("strict"),
        )
        schema.finish()
    nested.finish()
    return response_format


def tool_choice_json(choice: ToolChoice) -> object:
    match choice.mode:
        case ToolChoiceMode.CODE_INTERPRETER:
            return {"type": "code_interpreter"}
        case ToolChoiceMode.FUNCTION:
            return {"type": "function", "function": {"name": choice.function_name}}
        case mode:
            return mode.value


def tool_choice_value(fields: Fields, name: str = "tool_choice") -> ToolChoice | None:
    given = fields.raw(name)
    if given is None:
        return None
    if isinstance(given, str):
        mode = fields.choice(name, ("none", "auto", "required"))
        return None if mode is None else ToolChoice(ToolChoiceMode(mode))
    nested = fields.nested(name)
    if nested is None:
        return None
    kind = nested.choice("type", ("function", "code_interpreter"))
    choice: ToolChoice | None = None
    if kind == "code_interpreter":
        choice = ToolChoice(ToolChoiceMode.CODE_INTERPRETER)
    elif kind == "function":
        function = nested.nested("function")
        if function is None:
            nested.required("function")
        else:
            choice = ToolChoice(ToolChoiceMode.FUNCTION, function.string("name") or "")
            function.finish()
    elif nested.raw("type") is None:
        nested.required("type")
    nested.finish()
    return choice


def truncation_json(strategy: TruncationStrategy) -> Json:
    return {"type": strategy.type.value, "last_messages": strategy.last_messages}


def truncation_value(fields: Fields, name: str = "truncation_strategy") -> TruncationStrategy | None:
    nested = fields.nested(name)
    if nested is None:
        return None
    kind = nested.choice("type", ("auto", "last_messages"), "auto")
    strategy = TruncationStrategy(TruncationType(kind or "auto"), nested.integer("last_messages"))
    nested.finish()
    return strategy


def usage_json(usage: Usage | None) -> Json | None:
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_token_details": {"cached_tokens": usage.cached_prompt_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
