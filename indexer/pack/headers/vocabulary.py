"""Which values of DICOM's short texts are stored as they are: known terms, so that no name or free text passes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from indexer.pack.headers.secret import KeyedHash

STANDARD_UID = re.compile(r"1\.2\.840\.10008\.[0-9.]{1,50}")  # assigned by the standard itself, not by a site


def _terms(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MODALITIES = _terms(
    "AR AU BDUS BI BMD CR CT DG DX DOC ECG EPS ES FA FID GM HC HD IO IOL IVOCT IVUS KER KO LEN LS MG MR NM OAM OCT "
    "OP OPM OPT OPTBSV OPTENF OPV OSS OT PLAN PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTPLAN RTRECORD RTSTRUCT RWV "
    "SEG SM SMR SR SRF STAIN TG US VA XA XC AS CD CF CP CS DD DF DM DS EC FS LP MA MS ST VF PA POS CFM M3D "
    "TEXTUREMAP"
)
_BODY_PARTS = _terms(  # PS3.16 Annex L, and the spellings that scanners write
    "ABDOMEN ABDOMENPELVIS ADRENAL ANKLE ANUS AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK "
    "CALCANEUS CALF CAROTID CEREBELLUM CEREBRALA CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CHOROIDPLEXUS "
    "CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS "
    "EXTREMITY EYE EYELID FACE FEMORALA FEMUR FIBULA FINGER FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP "
    "HUMERUS IAC ILEUM ILIUM JAW JAWREGION JEJUNUM KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG MANDIBLE "
    "MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE OPTICNERVE ORBIT OVARY "
    "PANCREAS PARANASALSINUS PAROTID PATELLA PELVIS PENIS PHARYNX PITUITARY PROSTATE RECTUM RETINA RIB RIBS SCALP "
    "SCAPULA SCLERA SCROTUM SELLA SHOULDER SIJOINT SINUS SKIN SKULL SPINE SPLEEN SSPINE STERNUM STOMACH "
    "SUBMANDIBULAR TESTIS THIGH THORAX THUMB THYMUS THYROID TIBIA TLSPINE TMJ TOE TONGUE TRACHEA TSPINE UPPERARM "
    "URETER URETHRA URINARYTRACT UTERUS VAGINA WHOLEBODY WRIST ZYGOMA CERVICALSPINE THORACICSPINE LUMBARSPINE "
    "UNKNOWN PHANTOM OTHER"
)
_VIEWS = _terms(
    "AP PA LL RL LLD RLD LLO RLO LAT LATERAL OBLIQUE LPO RPO LAO RAO AX AXIAL SAGITTAL CORONAL CC MLO ML LM LMO "
    "XCCL XCCM FB SIO ISO SPECIMEN XCC CV AT RL RM RS MLID BUNNY TAN NP TOWNES WATERS CALDWELL SMV"
)
_PHOTOMETRICS = frozenset(
    ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422",
     "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB")
)  # fmt: skip
_CODES: Mapping[str, frozenset[str]] = {
    "modality": _MODALITIES,
    "body_part": _BODY_PARTS,
    "laterality": frozenset("RLUB"),
    "view": _VIEWS,
    "photometric": _PHOTOMETRICS,
}
# Words of makers' names; a value is stored where it consists of them alone.
_MAKERS = _terms(
    "accuray acuson adac agfa gevaert aloka aperio atl barco bruker canon carestream ceresio cmr delphinus "
    "digirad elekta elscint eos esaote fischer fonar fuji fujifilm ge general electric genoray hamamatsu "
    "heidelberg hitachi hologic howtek huvitz icad imatron infimed instrumentarium isg kodak konica leica leonardo "
    "lodox lorad marconi mediso medison medtronic merge mindray minolta neurologica neusoft nidek nikon nucletron "
    "olympus optos optovue optomed philips picker planmed planmeca raycare roche samsung sectra shimadzu siemens "
    "sirona sonosite spectrum stryker supersonic swissray tomtec topcon toshiba trex trophy uih united varian "
    "vatech ventana vidar visionix xoran zeiss 3dhistech giotto ims dynamics research pms ultrasound nuclear"
)
_FIRMS = _terms(
    "ag and carl co company corp corporation de diagnostic diagnostics digital eastman electronics engineering europe "
    "gmbh group health healthcare healthineers imaging inc incorporated industries international kg laboratories "
    "limited ltd manufacturing medical meditec mec mr nm ct us xray x-ray of products sa se solutions system "
    "systems technologies technology usa nv bv llc cr spa srl"
)
# Words of scanners' names: a model is stored where its words are these, a maker's, or short codes with a digit.
_MODELS = _terms(
    "achieva acuson affirm allura amx aquilion aera ambition arcadis architom artis ascend aura avanto axiom "
    "azurion bio biograph biomatrix birad brightspeed brilliance brivo centricity cirrus clarity clinix compact "
    "concerto cxdi cyclone definition definium digitaldiagnost dimensions discovery dr drx drive dual duradiagnost "
    "eclipse edge elite emotion epiq essence essential evolution evo exam excite express extend fcr fit flash flex "
    "fluorospot force freedom fusion genesis gemini go gyroscan hd hi hispeed hyper iconos imager impax incisive "
    "ingenia ingenuity innova insight inspiration intera intellispace intuition iq kodak lightspeed logiq luminos "
    "magnetom mammo mammomat max maxima mcs mobile mobilett multiva multix mx nova novation omni open openspeed "
    "optima orian panorama perspective philips planilux plus power pro precision premium prestige prima prime "
    "pristina prisma profound quantum radix regius revolution scan selenia senographe sense sensation senseo sigma "
    "signa siremobil skyra sola sonata somatom spectral spectra spectris spectro speed spirit sprint step supria "
    "symphony symbia system titan tomo tomoscan trio triumph turbo twinspeed ultra unlimited vantage vario "
    "velocity verio versa vida vision vista vct vivid volume voluson wave xario xeleris xpert zenition zoom as qx "
    "lx hde ge xr xe xt xl ct mr us pet cr dx dxr ii iii iv vi vii"
)
_CODE = re.compile(r"[a-z]{0,2}\d{1,4}[a-z+]{0,2}|[a-z]|[+&]+")
_BETWEEN = re.compile(r"[\s_,/()-]+")


def stored_term(field: str, text: str, keyed: KeyedHash) -> str:
    """The text where it is a known term of this field, else a keyed hash, so that equal texts stay equal."""
    term = text.upper() if field in _CODES else text
    return term if is_known(field, term) else f"other-{keyed(field, text)[:8]}"


def is_known(field: str, text: str) -> bool:
    """Whether a text is a known term of this field: it holds no name and no free text."""
    if field in _CODES:
        return text.replace(" ", "") in _CODES[field] or text in _CODES[field]
    return _maker(text) if field == "manufacturer" else _model(text)


def _maker(text: str) -> bool:
    words = _words(text)
    return bool(words & _MAKERS) and words <= _MAKERS | _FIRMS


def _model(text: str) -> bool:
    words = _words(text)
    named = words & (_MODELS | _MAKERS)
    return bool(named) and all(word in _MODELS | _MAKERS | _FIRMS or _CODE.fullmatch(word) for word in words)


def _words(text: str) -> set[str]:
    return {word.replace(".", "").rstrip("+") for word in _BETWEEN.split(text.lower())} - {""}
