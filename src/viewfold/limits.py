"""Bounds on untrusted files, each once and with its reason; docs/weights.md says which reader applies which.

Imports nothing.  Readers look them up as `limits.MESH_BYTES` when they are called, so that a test may change one.
"""

# Checkpoints: one file of tensors ---------------------------------------------------------------------------------

CHECKPOINT_BYTES = 32 * 2**30
"""The largest released MVDream checkpoint has 5.2 GB."""

CHECKPOINT_HEADER_BYTES = 16 * 2**20
"""Of a .safetensors file's table of contents; that of Stable Diffusion takes 0.1 MiB."""

PICKLE_OPCODES = 1_000_000
"""Instructions of a pickle; Stable Diffusion's 1131 tensors take some 60,000."""

PICKLE_TUPLE_ITEMS = 1000
"""In a tuple of a pickle, counted through the tuples within; a shape has four."""

UNET_BLOCKS = 64
"""On the way down or up a network whose layout is read off its tensors' names; released ones have twelve."""

LORA_BYTES = 4 * 2**30
"""LoRA files of Stable Diffusion have 1 to 300 MB."""

STATE_HEADER_BYTES = 64 * 2**20
"""Of the table of contents of a training state, which holds each weight, its average and the optimiser's moments."""

LIFT_STATE_BYTES = 16 * 2**30
"""Of a state that a lift keeps; the largest hash grid's has 6 GB, MVDream's 0.4."""

JUDGE_BYTES, JUDGE_LABELS, JUDGE_CHANNELS = 16 * 2**20, 4096, 1024
"""Of a judge: its weights (the shipped one's have 1.0 MB), the names that it can say, the width of its network."""

ALEXNET_BYTES = 256 * 2**20
"""Of torchvision's AlexNet, which LPIPS looks with; it has 244 MB."""

# Model folders ----------------------------------------------------------------------------------------------------

FOLDER_FILES = 256
"""In the folder of one part; a network of 100 GB in files of 500 MB has 200."""

CONFIG_BYTES = 64 * 2**10
"""Of a config.json or model_index.json; those of Stable Diffusion have under 1 kB."""

FOLDER_TEXT_BYTES = 32 * 2**20
"""Of a vocabulary or any other file that holds no weights; CLIP's vocabulary takes 2 MB."""

CONFIG_NUMBER = 2**20
"""Of any size in a config.json; large vocabularies have 256,000 words."""

CONFIG_LAYERS, BLOCK_LAYERS = 256, 16
"""Of a network, and of one block of a UNet: building them takes time before their weights could be missed."""

CONFIG_LIST, CONFIG_DEPTH = 64, 8
"""Items of a list in a config.json, and lists within lists."""

SCHEDULE_STEPS = 1000
"""Of a noise schedule that is written out; all of this family were trained with 1000."""

# Assets and data --------------------------------------------------------------------------------------------------

MESH_BYTES = 512 * 2**20
"""Of a mesh's file, and of everything that it refers to."""

MESH_FACES = 5_000_000
"""Of a scene, copies counted; a scan of a room has a few million."""

MESH_EXTENT = 1e12
"""Of its coordinates: areas and volumes of larger ones leave single precision, and no unit needs them."""

SPLATS = 10_000_000
"""Of a cloud of 3D Gaussians; released scenes of whole rooms and gardens have 1 to 6 million."""

MESH_NODES = 100_000
"""Of a GLB's scene; each costs trimesh a matrix and a place in its graph."""

TEXTURE_PIXELS = 8192 * 8192
"""Of a mesh's texture: 256 MiB once it is decoded."""

PICTURE_PIXELS = 4096 * 4096
"""Of any other picture: 64 MiB once it is decoded, 256 MiB as numbers."""

PHOTO_PIXELS = 8192 * 8192
"""Of a JPEG that is decoded at a fraction of its size; phones and cameras have 12 to 61 million."""

PHOTOS = 256
"""Of one subject; 3 to 8 are enough."""

PICTURE_BYTES = 256 * 2**20
"""Of its file: twice what 16 bits in each of four channels take."""

PICTURE_FIELDS = 2**16
"""Letters, or bytes, of fields that are kept of a picture; a record of provenance has some 600."""

VIEWS, VIEWS_PIXELS = 1024, 2**26
"""Of a folder of views, all pictures together: a hundred of 800 x 800 have 64 million, 1.0 GB as numbers with alpha."""

LENS_NUMBER = 1e9
"""Of a lens: pixels, and factors of its distortion, below 100 as a rule; powers of places multiply them."""

SHARD_MEMBER_BYTES = 64 * 2**20
"""Of one file in a shard; 32 views' latents of 64 x 64 take 1 MB."""

SHARD_HEADER_BYTES = 2**20
"""Of a tar's own fields and long names, before a file in it; ours take 2 kB."""

ARRAY_HEADER_BYTES = 2**13
"""Of a .npy file's description of its numbers; some 120 bytes."""

LOG_VARIANCE = 30
"""Of cached latents; an autoencoder's end at 20, and its scale adds little; 178 gives infinite samples."""

SAMPLE_VIEWS, SAMPLE_CAPTIONS = 2**14, 2**12
"""Of one sample; the paper's has 64 views, Cap3D's a caption."""

TABLE_BYTES = 2 * 2**30
"""Of a table of captions that is read row by row; Cap3D's of Objaverse-XL has 0.2 GB."""

INDEX_BYTES = 256 * 2**20
"""Of a JSON index of assets, decompressed; one of Objaverse's 160 has some 20 MB."""

# Files of ours that a stranger may have written ---------------------------------------------------------------------

JSON_BYTES = 16 * 2**20
"""Of any JSON file: cameras of a thousand views take 0.4 MB."""

RECORD_TEXT = 256
"""Characters of a field of a record of provenance."""

RECORD_HEAD_BYTES = 2**16
"""How far into an OBJ or PLY a record is looked for."""

RECORD_TREE_BYTES = 16 * 2**20
"""Of a GLB's description, which holds its record."""

RECORD_XMP_BYTES = 2**20
"""Of a picture's XMP packet; ours has 0.6 kB."""

VOTES_BYTES, VOTES_PAIRS = 2**20, 10_000
"""Of a file of votes, and pairs of a blind comparison; a vote takes some 40 bytes."""

VOTER_CHARACTERS = 64
"""Of what a file of votes calls its voter; the page's own have 16."""

# Prompts ----------------------------------------------------------------------------------------------------------

PROMPT_CHARACTERS = 10_000
"""Longer prompts are refused before they are tokenised; 77 tokens take some 400."""

PROMPT_FILE_BYTES = 64 * 2**20
"""Of a file of prompts: a million of sixty characters."""

TOKENIZER_GROWTH, TOKENIZER_PATTERN = 128, 2_000
"""How many times as long a tokenizer's rules may make a prompt, and letters of a search; CLIP's: 8, 100; T5's: 72."""

TOKENIZER_STEPS, TOKENIZER_MARKS = 32, 16
"""Of a tokenizer: its rules, and marks around a prompt or letters around a piece; CLIP's: 5, 2, 4."""

TOKENIZER_LETTERS = 256
"""Of a word that WordPiece takes apart, in a time that grows with their cube; BERT's takes 100."""

TOKENIZER_WORDS = 2**24
"""Ids of a tokenizer; the largest vocabularies have a million words."""

SETTING_CHARACTERS = 1_000
"""Of the suffix and the unconditional text that a model's folder sets."""
