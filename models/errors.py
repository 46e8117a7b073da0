"""The one expected error of this room."""


class ModelError(Exception):
    """A model that cannot be served as it is: missing or corrupt file, unsupported field.

    The text names the file or field, says what is wrong and what to change.
    """
