"""The parsed Modelfile of a bot."""

from kuwa_min.chat.modelfile import (
    Modelfile,
    ParameterDict,
    Script,
    ScriptSyntaxError,
    convert_value,
    extract_text_from_quotes,
)

__all__ = [
    "Modelfile",
    "ParameterDict",
    "Script",
    "ScriptSyntaxError",
    "convert_value",
    "extract_text_from_quotes",
]
