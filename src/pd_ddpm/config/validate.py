"""Check a whole configuration and report all of its problems at once."""

from copy import deepcopy

from pd_ddpm.config.consistency import find_contradictions
from pd_ddpm.config.resolve import Config, ConfigError, expand_likes, method, network
from pd_ddpm.config.schema import error_text, read_schema, schema_errors


def check(config: Config) -> None:
    """Raise ConfigError with everything that is wrong with a configuration, each with its key and a remedy."""
    schema = read_schema()
    sections = ("datasets", "networks", "methods")
    whole = config | {section: expand_likes(config, section) for section in sections if section in config}
    problems = [error_text(error) for error in schema_errors(schema, whole)]
    if not problems:
        config = config | {"datasets": whole["datasets"]}
        resolved = deepcopy(config)
        resolved["networks"] = {name: network(config, name) for name in config["networks"]}
        resolved["methods"] = {name: method(config, name) for name in config["methods"]}
        problems = [error_text(error) for error in schema_errors(schema, resolved)]
    if not problems:
        problems = list(find_contradictions(config))
    if problems:
        raise ConfigError("the configuration cannot be run:\n" + "\n".join(f"  - {problem}" for problem in problems))
