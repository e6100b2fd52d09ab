//! Long lists behind IN. The engine keeps every value as an expression of its own, in every copy of a plan, and looks through
//! all of them for each cell: a list of 300,000 numbers took more time to plan and to open cells with than the scan itself.
//! Here the values are one array, their least and their greatest say which cells have any of them, and the rest is a look
//! into a set.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, Weak};

use arrow::array::{Array, ArrayRef, BooleanArray, ListArray};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::{DataFusionError, HashSet, Result, ScalarValue};
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::type_coercion::other::get_coerce_type_for_list;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast, lit,
};
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_plan::PhysicalExpr;

use crate::sync::lock;

/// Values above which a list is long. Up to twenty the engine compares cells' statistics with each of them, beyond that it
/// gains nothing.
const LONG: usize = 100;

/// The function, for tasks that name it.
pub fn function() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(OneOf::default()))
}

/// The same condition over one array, when the list is long and of constants that compare as what they are; `of` is the type
/// of what is looked for. Numbers with fractions are left to the engine: of them 0 and -0 are equal.
pub(super) fn rewritten(list: &InList, of: &DataType) -> Result<Option<Expr>> {
    if list.list.len() <= LONG || of.is_nested() {
        return Ok(None);
    }
    let Some(values) = list.list.iter().map(constant).collect::<Option<Vec<_>>>() else { return Ok(None) };
    let types: Vec<DataType> = values.iter().map(ScalarValue::data_type).collect();
    let Some(common) = get_coerce_type_for_list(of, &types).filter(|common| !common.is_floating()) else {
        return Ok(None);
    };
    let same = |value: ScalarValue| if value.data_type() == common { Ok(value) } else { value.cast_to(&common) };
    let values = values.into_iter().map(same).collect::<Result<Vec<_>>>()?;
    let looked_for =
        if *of == common { list.expr.as_ref().clone() } else { cast(list.expr.as_ref().clone(), common.clone()) };
    let bounds = bounds(&values).filter(|_| !list.negated && matches!(*list.expr, Expr::Column(_)));
    let array = ScalarValue::new_list_from_iter(values.into_iter(), &common, true);
    let arguments = vec![looked_for.clone(), lit(ScalarValue::List(array))];
    let found = Expr::ScalarFunction(ScalarFunction::new_udf(function(), arguments));
    Ok(Some(match bounds {
        Some((least, greatest)) => found.and(looked_for.between(lit(least), lit(greatest))),
        None if list.negated => !found,
        None => found,
    }))
}

fn constant(expr: &Expr) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value.clone()),
        Expr::Cast(cast) => constant(&cast.expr)?.cast_to(cast.field.data_type()).ok(),
        _ => None,
    }
}

/// The least and the greatest; `None` where one is null: what is outside of them is then not known to be none of them.
fn bounds(values: &[ScalarValue]) -> Option<(ScalarValue, ScalarValue)> {
    let (mut least, mut greatest) = (values.first()?, values.first()?);
    for value in values {
        if value.is_null() {
            return None;
        }
        least = if value.partial_cmp(least)?.is_lt() { value } else { least };
        greatest = if value.partial_cmp(greatest)?.is_gt() { value } else { greatest };
    }
    Some((least.clone(), greatest.clone()))
}

/// What is looked for and how many values there are, when `predicate` is such a condition.
pub(super) fn looked_for(predicate: &Arc<dyn PhysicalExpr>) -> Option<(&Arc<dyn PhysicalExpr>, usize)> {
    let function = predicate.downcast_ref::<ScalarFunctionExpr>().filter(|f| f.fun().inner().is::<OneOf>())?;
    let [expr, list] = function.args() else { return None };
    match list.downcast_ref::<Literal>()?.value() {
        ScalarValue::List(list) => Some((expr, list.values().len())),
        _ => None,
    }
}

/// Whether the first argument is one of the list that is the second.
#[derive(Debug)]
struct OneOf {
    signature: Signature,
    /// The sets of lists that are in use: every batch of rows brings the same list.
    sets: Mutex<Vec<(Weak<ListArray>, Arc<Set>)>>,
}

impl Default for OneOf {
    fn default() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable), sets: Mutex::default() }
    }
}

impl PartialEq for OneOf {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for OneOf {}

impl Hash for OneOf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl OneOf {
    fn set(&self, list: &Arc<ListArray>) -> Result<Arc<Set>> {
        let known = |sets: &[(Weak<ListArray>, Arc<Set>)]| {
            let found = sets.iter().find(|(of, _)| of.as_ptr() == Arc::as_ptr(list) && of.strong_count() > 0);
            found.map(|(_, set)| Arc::clone(set))
        };
        let mut sets = lock(&self.sets);
        if let Some(set) = known(&sets) {
            return Ok(set);
        }
        // Whoever needs the same waits for it.
        let set = Arc::new(Set::of(list.values())?);
        sets.retain(|(of, _)| of.strong_count() > 0);
        sets.push((Arc::downgrade(list), Arc::clone(&set)));
        Ok(set)
    }
}

impl ScalarUDFImpl for OneOf {
    fn name(&self) -> &str {
        "in_list"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [expr, ColumnarValue::Scalar(ScalarValue::List(list))] = args.args.as_slice() else {
            return Err(DataFusionError::Plan("in_list wants a value and a constant list".into()));
        };
        let rows = match expr {
            ColumnarValue::Array(rows) => Arc::clone(rows),
            // One row is enough.
            ColumnarValue::Scalar(value) => value.to_array()?,
        };
        if rows.data_type() != list.values().data_type() {
            let (of, values) = (rows.data_type(), list.values().data_type());
            return Err(DataFusionError::Plan(format!("in_list wants values of one type, not of {of} and {values}")));
        }
        let found = self.set(list)?.contains(&rows)?;
        match expr {
            ColumnarValue::Array(_) => Ok(ColumnarValue::Array(Arc::new(found))),
            ColumnarValue::Scalar(_) => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?)),
        }
    }
}

/// Values as bytes that are equal when they are.
struct Set {
    converter: RowConverter,
    values: HashSet<Box<[u8]>>,
    has_null: bool,
}

impl Set {
    fn of(values: &ArrayRef) -> Result<Self, ArrowError> {
        let converter = RowConverter::new(vec![SortField::new(values.data_type().clone())])?;
        let rows = converter.convert_columns(&[Arc::clone(values)])?;
        let is_value = |i: &usize| values.is_valid(*i);
        let values_of =
            |rows: &Rows| (0..rows.num_rows()).filter(is_value).map(|i| rows.row(i).data().into()).collect();
        Ok(Self { values: values_of(&rows), has_null: values.null_count() > 0, converter })
    }

    /// As SQL has it: what is not found is unknown where one of the values is.
    fn contains(&self, array: &ArrayRef) -> Result<BooleanArray, ArrowError> {
        let rows = self.converter.convert_columns(&[Arc::clone(array)])?;
        let unfound = (!self.has_null).then_some(false);
        let found = |i: usize| if self.values.contains(rows.row(i).data()) { Some(true) } else { unfound };
        Ok((0..array.len()).map(|i| array.is_valid(i).then(|| found(i)).flatten()).collect())
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Set of {} values", self.values.len())
    }
}
