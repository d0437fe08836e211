"""Weight source timm: `GlobalContext` and `SEModule`."""

from functools import partial

from gcnet.checkpoints.source import SE_TABLE, Source, Table, describe_gc, describe_se, kernel, vector

_ATTENTION: Table = {
    "conv_attn.weight": ("context.key.weight", kernel),
    "conv_attn.bias": ("context.key.bias", vector),
}
_ADD: Table = {
    "mlp_add.fc1.weight": ("add.transform.reduce.weight", kernel),
    "mlp_add.fc1.bias": ("add.transform.reduce.bias", vector),
    "mlp_add.norm.weight": ("add.transform.norm.weight", vector),
    "mlp_add.norm.bias": ("add.transform.norm.bias", vector),
    "mlp_add.fc2.weight": ("add.transform.expand.weight", kernel),
    "mlp_add.fc2.bias": ("add.transform.expand.bias", vector),
}
_SCALE: Table = {
    "mlp_scale.fc1.weight": ("scale.transform.reduce.weight", kernel),
    "mlp_scale.fc1.bias": ("scale.transform.reduce.bias", vector),
    "mlp_scale.norm.weight": ("scale.transform.norm.weight", vector),
    "mlp_scale.norm.bias": ("scale.transform.norm.bias", vector),
    "mlp_scale.fc2.weight": ("scale.transform.expand.weight", kernel),
    "mlp_scale.fc2.bias": ("scale.transform.expand.bias", vector),
}

SOURCES = {
    "timm_global_context": Source(
        tables=((_ATTENTION, {}), (_SCALE, _ADD, _SCALE | _ADD)), describe=partial(describe_gc, norm_eps=1e-6)
    ),
    "timm_se": Source(tables=((SE_TABLE,),), describe=describe_se),
}
