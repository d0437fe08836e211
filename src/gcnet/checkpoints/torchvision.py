"""Weight source torchvision: `SqueezeExcitation`."""

from gcnet.checkpoints.source import SE_TABLE, Source, describe_se

SOURCES = {"torchvision_se": Source(tables=((SE_TABLE,),), describe=describe_se)}
