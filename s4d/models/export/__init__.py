"""Our models as files of other programs; each is compared with its source before it is kept."""
