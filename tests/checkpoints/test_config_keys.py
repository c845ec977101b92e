"""Every key of another library's config.json is read, fixed or harmless; what is none of these is refused."""

import pytest

from vit_jax.checkpoints import config_keys
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.errors import UserError

TABLES = {name: keys for name, keys in vars(config_keys).items() if isinstance(keys, config_keys.Keys)}


@pytest.mark.parametrize("name", TABLES)
def test_each_key_is_in_one_place(name):
    keys = TABLES[name]
    assert not (keys.read & keys.harmless or set(keys.fixed) & (keys.read | keys.harmless))
    keys.check(JsonObject({**dict.fromkeys(keys.read | keys.harmless, "anything"), **keys.fixed, "_private": 1}))
    keys.check(JsonObject(dict.fromkeys(keys.fixed)))
    for key, value in keys.fixed.items():
        for other in ("other", not value, [value]):
            with pytest.raises(UserError, match=f"{key}.*only"):
                keys.check(JsonObject({key: other}))
    with pytest.raises(UserError, match="twist.*not known"):
        keys.check(JsonObject({"twist": 0}))
