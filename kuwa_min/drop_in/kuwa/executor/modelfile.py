"""What a bot's author asks for."""

from kuwa_min.modelfile import (
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
