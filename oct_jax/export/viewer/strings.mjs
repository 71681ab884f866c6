// Every word of the page, for translation. {names} are filled in.

const STRINGS = {
  title: "Retinal OCT screening",
  researchUse: "Research use. Not a medical device.",
  synthetic: "SYNTHETIC MODEL: trained on phantoms, it knows nothing of patients.",
  adapted: "Adapted to other scans without labels since it was calibrated: thresholds promise less.",
  starting: "Starting: unpacking the model and testing this browser…",
  ready: "Ready. This browser passed the self-test: {scans} golden scans, {pictures} pictures.",
  readyWithout: "Ready, but this browser does not decode {formats} exactly: such files are refused.",
  failedTitle: "This page gives no answers here",
  failedSelfTest:
    "The self-test failed: this browser computes something else than the model's makers did " +
    "(probabilities differ by {probabilities}, heatmaps by {heatmaps}). Use another browser.",
  failedAsset: "The file is damaged or was changed ({message}). Get it again.",
  failedBrowser: "This browser is too old: it lacks {missing}. Update it, or use another one.",
  failedOther: "It could not start ({message}). Reload the page; if it stays so, use another browser.",

  choose: "Choose scans",
  chooseFolder: "Choose folder",
  dropHere: "or drop scans or a folder here",
  formats: "JPEG, PNG, TIFF, BMP, uncompressed DICOM. Nothing leaves this computer.",
  nothingYet: "No scan yet. Choose one, and the answer appears here.",
  progress: "{done} of {total} done",
  allDone: "{total} done",
  stop: "Stop",
  clear: "Remove all",
  list: "Scans, the most urgent first",
  filters: "Show",
  filterAll: "All",
  search: "Name contains",
  noMatch: "No scan matches.",
  exportCsv: "Save table (CSV)",
  print: "Print",

  referral_urgent: "Urgent referral",
  referral_routine: "Routine referral",
  referral_observe: "Observation",
  referral_defer: "Deferred to a person",
  referral_unreadable: "Unreadable",
  referral_none: "Classified only",
  referral_waiting: "Waiting",
  short_urgent: "Urgent",
  short_routine: "Routine",
  short_observe: "Observe",
  short_defer: "Deferred",
  short_unreadable: "Unreadable",
  short_none: "Classified",

  reason_urgent: "Only urgent classes remain possible: {set}.",
  reason_routine: "Only classes for routine referral remain possible: {set}.",
  reason_observe: "Only classes without referral remain possible: {set}.",
  reason_outlier:
    "This scan is unlike those the model was trained on (another device?). Its answer is not used.",
  reason_noRetina: "This picture shows no retina, as far as the model can tell.",
  reason_emptySet: "No class is probable enough: the model does not know this pattern well.",
  reason_severalTiers: "What remains possible asks for different actions: {set}{urgent}.",
  reason_severalTiersUrgent: "; the urgent classes together reach {urgency}",
  reason_noTier: "A class that remains possible has no referral: {set}.",
  reason_uncalibrated: "The tier of the most probable class. This model is not calibrated.",
  reason_notReferred: "This model's classes have no referral tiers.",
  reason_eyeTier: "{shares}, mean of the middle B-scans.",
  reason_eyeUrgentMiddle: "{bscansNamed} in the middle: {shares}.",
  reason_eyeUrgentEdge: "{bscansNamed} away from the middle: {shares}. Look at them.",
  reason_eyeDisagrees: "{bscansNamed} in the middle: {shares}; the rest does not agree.",
  reason_eyeUnsure: "Not sure: {shares}, mean of the middle B-scans; 90 % are asked of an eye.",
  reason_eyeOutliers: "{count} of the {middle} B-scans in the middle are unlike the training scans.",
  reason_eyeUnreadable: "{count} of the {middle} B-scans in the middle cannot be read.",
  bscansNamed: "B-scans {first} to {last}",
  eyeTitle: "This eye, {bscans} B-scans",
  eyeNote:
    "By fixed limits on the B-scans' probabilities; not calibrated for eyes. {urgentBscans} of {read} " +
    "readable B-scans are urgent by themselves.",
  dicomNote: "Sizes and positions that the DICOM file states are not used here; Python uses them.",
  bscan: "B-scan {number} of {count}",
  strip: "B-scans of this eye, each in the colour of its own referral",
  stripItem: "B-scan {number}: {referral}",

  probabilities: "Probabilities",
  calibrated: "calibrated on {scans} scans of {patients} patients",
  calibratedPlain: "calibrated",
  notCalibrated: "the model's own score, not calibrated",
  set: "Remains possible",
  setHelp: "prediction set, coverage asked {coverage}",
  setEmpty: "no class",
  outlier: "Unlike the training scans (score {score}, limit 1): probabilities mean little.",
  inlier: "Like the training scans (score {score}, limit 1).",
  noOutlier: "This model does not notice scans unlike its training scans.",

  picture: "Scan {name}; the heatmap shows where it looks like {label}",
  heatmap: "Heatmap",
  heatmapFor: "Where the scan looks like {label}. The peak is this scan's own, however weak.",
  heatmapUnverified: "Unverified: the heatmaps of this model have not passed a faithfulness test.",
  opacity: "Opacity",
  zoomIn: "Zoom in",
  zoomOut: "Zoom out",
  zoomReset: "Whole scan",
  pictureHelp: "Wheel or + and − zoom, drag or arrow keys move, 0 shows the whole scan.",
  drawing: "Drawing…",

  about: "About this model",
  aboutModel: "{name} ({architecture}), trained {trained}",
  aboutData: "Trained on {scans} scans: {classes}.",
  aboutMeasured:
    "Measured on {scans} {kind}{patients}{data}, kept apart from training: accuracy {accuracy}. " +
    "Scans of other devices or hospitals give other figures, usually lower.",
  aboutPatients: " of {patients} patients",
  aboutFrom: " ({data}, {split})",
  aboutKindScans: "scans",
  aboutKindPhantoms: "SYNTHETIC phantoms",
  aboutNotMeasured: "Not measured when this page was made.",
  aboutClasses: "It knows only {classes}; anything else gets one of these names or is deferred.",
  aboutDigest: "Model SHA-256, checked at the start: {sha256}",
  aboutSelfTest: "Self-test: probabilities within {probabilities}, heatmaps within {heatmaps}.",
  licences: "Licences of what this page is made of",

  dialogTitle: "File names may tell who the patients are",
  dialogText:
    "The table will hold {count} results. File names and folders often hold names, dates of birth " +
    "or numbers of patients.",
  dialogWith: "With file names",
  dialogWithout: "Numbers only",
  dialogCancel: "Cancel",
  printed: "Printed {date}. Page made from model {sha256}.",
  scanNumber: "scan {number}",
  columns:
    "scan,bscan,referral,reason,label,prediction set,outlier score,width,height,error,model sha256",

  refusal: "This file gives no answer: {reason}",
  advice_unreadable: "A person must look at it, or it must be exported again.",
  refused_empty: "it is empty.",
  refused_unknownFormat: "it is no JPEG, PNG, TIFF, BMP or DICOM file.",
  refused_unfitBrowser: "this browser does not decode {format} exactly; use another browser.",
  refused_damaged: "it is damaged.",
  refused_truncated: "it is damaged: its end is missing.",
  refused_noPixels: "its size is {size}.",
  refused_tooLarge: "{size} is more than 64 megapixels.",
  refused_notABscan: "{size} is no B-scan: one side is more than 32 times the other.",
  refused_frames: "it holds {count} frames; save each B-scan as a file of its own.",
  refused_severalPictures: "it holds several pictures; save each B-scan as a file of its own.",
  refused_transparentColour: "transparency of an unusual kind; save it without.",
  refused_oldOrientation: "its orientation is stored in an unusual way; save it again.",
  refused_floatRange: "its levels go from {low} to {high}; scale them to 0 to 1 or 0 to 255.",
  refused_bmpKind: "a BMP of an unusual kind; save it as PNG.",
  refused_jpegKind: "a JPEG of an unusual kind; save it as PNG.",
  refused_cmyk: "a JPEG in print colours (CMYK); save it as grey or RGB.",
  refused_bigTiff: "a BigTIFF file; save it as TIFF or PNG.",
  refused_tiffCompression: "a TIFF with {name} compression; save it without compression.",
  refused_tiffKind: "a TIFF of an unusual kind; save it as 8- or 16-bit grey.",
  refused_dicomSyntax: "a compressed DICOM file (transfer syntax {syntax}); export it uncompressed.",
  refused_dicomClass: "a DICOM file, but no Ophthalmic Tomography Image.",
  refused_dicomKind: "DICOM pixels of an unusual kind ({kind}).",
  refused_tooManyFrames: "it announces {count} frames; no scanner makes so many.",
  refused_gone: "it can no longer be read; it was moved, or the folder is gone.",
  refused_memory: "this device has not enough memory for it.",
  refused_failed: "an unexpected error ({message}).",
  refused_stopped: "stopped before its turn.",
};

/** The text of a key with its values. */
export function text(key, values = {}) {
  const template = STRINGS[key];
  if (template === undefined) throw new Error(`no text for ${key}`);
  return template.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

export function hasText(key) {
  return key in STRINGS;
}

/** 0.934 as "93.4 %"; what is not 0 or 1 is never shown as 0 or 100. */
export function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  if (share < 1 && share > 0.999) return "> 99.9 %";
  return `${(100 * share).toFixed(1)} %`;
}
