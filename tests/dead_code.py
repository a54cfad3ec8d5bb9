"""What vulture takes for dead code and is not: each name with the reason. Read by `make check`, never imported.

Code that only tests call is dead; it is deleted, not listed here.
"""

# Called by a library under this name
_.forward  # torch: a module's computation
_.list_commands  # click: a group's commands, which here are imported when they are asked for
_.get_command  # click
_.format_commands  # click
_.http_open  # urllib: asks a handler by the name of the scheme
_.https_open  # urllib
_.__getitem__  # a Protocol's method: x[a:b] is how it is called
_.readable  # io.RawIOBase: asked by BufferedReader
_.readinto  # io.RawIOBase: called by BufferedReader
model_config  # pydantic: the options of a model
param  # click: the second argument of an option's callback
traceback  # the third argument of __exit__, which Python passes by position

# Read by a library, or by whoever opens the file
_.all_patients  # of `probes plan`: printed as a table and JSON
_.expected_width  # likewise
_.simulated_coverage  # likewise
_.by_residual  # faiss: whether a code is of the vector or of its distance to the centroid
_.start_time  # rich: of a task, for the time that its column shows as elapsed
_.SOPInstanceUID  # pydicom writes it into the file: so do all of these
_.PatientID  # pydicom
_.PatientName  # pydicom
_.StudyInstanceUID  # pydicom
_.SeriesInstanceUID  # pydicom
_.BodyPartExamined  # pydicom
_.PixelSpacing  # pydicom
_.SliceThickness  # pydicom
_.ImageOrientationPatient  # pydicom
_.ImagePositionPatient  # pydicom
_.SliceLocation  # pydicom
_.WindowCenter  # pydicom
_.WindowWidth  # pydicom
_.SamplesPerPixel  # pydicom
_.HighBit  # pydicom
_.PlanarConfiguration  # pydicom
_.VR  # pydicom

# Called by users of the library: the README's Python part
_.by_key  # a search by stored keys
_.by_image  # a search by images
_.by_text  # a search by texts

# Fields of records that are written as a whole (dataclasses.asdict): no line of ours names them again
_.built_at  # index manifest: when
_.faiss_version  # index manifest: by which faiss
_.fragments_before  # optimize --json
_.versions_before  # optimize --json
_.total_bytes  # doctor --json
_.hub_reachable  # doctor --json
_.rows_in_clusters  # near-duplicates --json, and so are the seven below
_.largest_cluster  # near-duplicates --json
_.within_group  # near-duplicates --json
_.across_groups  # near-duplicates --json
_.group_unknown  # near-duplicates --json
_.across_splits  # near-duplicates --json
_.split_pairs  # near-duplicates --json
_.leaked_rows  # near-duplicates --json
_.both_ways  # near-duplicates --by --json
_.groups_in_clusters  # near-duplicates --by --json
_.rows_in_index  # health --json
_.stale_entries  # health --json
_.shards_missing  # health --json
_.shards_not_checked  # health --json
_.p99_ms  # benchmarks.native's JSON
_.wall_seconds  # benchmarks.scale's JSON
_.searched  # search --shards --json
_.validation_sensitivity  # a probe's result.json
_.validation_specificity  # a probe's result.json
_.negatives  # a probe's result.json: of a subgroup
_.thresholds  # a bundle's probe.json
_.largest_difference  # probes rerun --json
_.weights_difference  # probes rerun --json

# Read by other libraries
_.total_tokens  # anyio: threads that answer requests

# Called by programs that use the library
find_near_duplicates  # all pairs at once, where the command streams them
embed_shard  # one shard without threads or table: what engines on other machines run
