"""What a bot's author asks for."""

from kuwa_min.modelfile import (
    Modelfile,
    ParameterDict,
    convert_value,
    extract_text_from_quotes,
)

__all__ = ["Modelfile", "ParameterDict", "convert_value", "extract_text_from_quotes"]
