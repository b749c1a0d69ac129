"""What shops call columns and events, in order of preference; compared without case, blanks and punctuation."""

import re

NULLS = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "none", "-", "\\N", "无", "空"]
YES, NO = ("1", "true", "yes", "y", "是", "有货", "有"), ("0", "false", "no", "n", "否", "缺货", "无货")

COLUMN_NAMES = {
    "event_id": ("eventid", "logid", "uuid", "messageid", "事件id", "事件编号", "日志id"),
    "user_id": ("userid", "uid", "customerid", "shopperid", "memberid", "buyerid", "clientid", "accountid", "reviewerid", "custid", "customercode",
                "customerno", "customernumber", "用户id", "用户编号", "会员id", "会员号", "会员编号", "顾客id", "顾客编号", "客户id", "客户编号",
                "买家id", "user", "shopper", "customer", "member", "buyer", "用户", "会员", "顾客", "客户", "买家", "visitorid", "fullvisitorid",
                "userpseudoid", "anonymousid", "访客id", "访客"),
    "item_id": ("itemid", "productid", "goodsid", "articleid", "sku", "skuid", "asin", "stockcode", "productcode", "itemcode", "itemno", "lineitemsku",
                "spu", "isbn", "movieid", "商品id", "商品编号", "商品编码", "货号", "货品编号", "产品id", "产品编号", "item", "product", "goods",
                "商品", "货品", "产品"),
    "event": ("event", "eventname", "eventtype", "action", "actiontype", "behavior", "behaviour", "behaviortype", "behaviourtype", "activity", "type",
              "行为", "行为类型", "行为名称", "事件", "事件名", "事件名称", "事件类型", "动作", "操作", "操作类型"),
    "timestamp": ("timestamp", "eventtimestamp", "eventtime", "ts", "datetime", "time", "eventdatetime", "eventdate", "date", "orderdate", "orderedat",
                  "ordertime", "orderdatetime", "invoicedate", "purchasedate", "purchasedat", "transactiondate", "transactiontime", "orderpurchasetimestamp",
                  "createdat", "unixreviewtime", "时间", "时间戳", "发生时间", "事件时间", "行为时间", "日期", "操作时间", "下单时间", "订单时间", "创建时间"),
    "session_id": ("sessionid", "session", "usersession", "visitid", "会话", "会话id", "会话编号"),
    "order_id": ("orderid", "orderno", "ordernumber", "invoiceno", "invoice", "invoiceid", "transactionid", "transaction", "订单号", "订单id", "订单编号"),
    "visitor_id": ("visitorid", "fullvisitorid", "userpseudoid", "anonymousid", "访客id", "访客"),
    "email_hash": ("emailhash", "hashedemail", "emailsha256", "emailmd5", "邮箱哈希"),
    "phone_hash": ("phonehash", "hashedphone", "phonesha256", "mobilehash", "手机号哈希"),
    "device_hash": ("devicehash", "hasheddeviceid", "设备哈希"),
    "address_hash": ("iphash", "addresshash", "networkhash", "ip哈希"),
    "platform": ("platform", "device", "devicetype", "client", "平台", "终端", "设备", "端"),
    "query": ("query", "searchquery", "keyword", "searchterm", "搜索词", "关键词", "查询词"),
    "quantity": ("quantity", "qty", "lineitemquantity", "count", "数量", "件数", "购买数量"),
    "price": ("price", "unitprice", "saleprice", "itemprice", "lineitemprice", "售价", "价格", "单价", "成交价", "商品价格"),
    "currency": ("currency", "currencycode", "币种", "货币"),
    "request_id": ("requestid", "请求id", "请求编号"),
    "campaign_id": ("campaignid", "活动id", "活动编号"),
    "channel": ("channel", "渠道", "触达渠道"),
    "propensity": ("propensity", "曝光概率"),
    "expected": ("expectedmargin", "expected", "预期增量"),
    "duration": ("duration", "dwell", "dwelltime", "timespent", "停留时长", "浏览时长"),
    "title": ("title", "itemname", "productname", "producttitle", "productdisplayname", "itemtitle", "lineitemname", "名称", "标题", "商品名称", "商品名",
              "商品标题", "品名", "产品名称", "name", "product", "item", "description", "商品", "产品"),
    "description": ("description", "desc", "描述", "简介", "商品描述", "详情"),
    "category": ("category", "categoryname", "categorypath", "categorycode", "cat", "categoryid", "类别", "类目", "品类", "分类", "商品类别", "商品分类",
                 "商品类目"),
    "brand": ("brand", "brandname", "brandid", "品牌", "品牌名", "品牌名称", "商品品牌"),
    "cost": ("cost", "unitcost", "costprice", "成本", "成本价"),
    "in_stock": ("instock", "available", "availability", "有货", "是否有货", "在库"),
    "stock": ("stock", "stocklevel", "inventory", "库存", "库存量"),
    "image": ("image", "imageurl", "picture", "图片", "主图", "商品图片"),
    "sound": ("sound", "audio", "soundurl", "audiourl", "音频"),
}  # fmt: skip
# In a table of items alone the key is often called so.
ITEM_KEYS = ("id", "code", "编号", "编码")
# What the lists of a basket's items are called, and columns of telephone numbers.
BASKETS = ("items", "products", "itemids", "productids", "skus", "basket", "itemlist", "productlist", "商品列表")
PHONES = ("phone", "phonenumber", "mobile", "mobilephone", "telephone", "tel", "电话", "手机", "手机号", "手机号码", "电话号码")
# Times of something else than what the shopper did.
OTHER_TIMES = ("signup", "signedup", "registr", "birth", "dob", "updat", "modif", "deliver", "ship", "expir", "cancel", "ingest", "load", "return", "refund",
               "approv", "estimat", "注册", "生日", "更新", "发货", "退")  # fmt: skip
# What persons are called and where they live: never collected by a guess.
PERSONS = ("name", "fullname", "firstname", "lastname", "surname", "customername", "username", "buyername", "reviewername", "email", "emailaddress", "mail",
           "phone", "phonenumber", "mobile", "telephone", "tel", "address", "street", "shippingaddress", "billingaddress", "zip", "zipcode", "postcode",
           "postalcode", "birthdate", "birthday", "dateofbirth", "dob", "ip", "ipaddress", "姓名", "客户姓名", "收货人", "邮箱", "电话", "手机", "手机号",
           "地址", "收货地址", "生日", "身份证", "身份证号")  # fmt: skip
RATINGS = ("rating", "ratings", "stars", "score", "overall", "reviewscore", "评分", "星级")
STATUSES = (
    "status",
    "orderstatus",
    "financialstatus",
    "paymentstatus",
    "fulfillmentstatus",
    "state",
    "订单状态",
    "支付状态",
    "状态",
)
EVENT_NAMES = {
    "view": ("view", "pv", "browse", "pageview", "detail", "viewitem", "itemview", "productview", "productviewed", "viewcontent", "impressiondetail", "浏览",
             "查看", "浏览商品", "点击浏览", "看"),
    "search": ("search", "query", "viewsearchresults", "productssearched", "搜索", "查询", "检索"),
    "favourite": ("favourite", "favorite", "fav", "like", "wish", "wishlist", "addtowishlist", "collect", "收藏", "关注", "喜欢", "加收藏"),
    "cart": ("cart", "addtocart", "addcart", "basket", "productadded", "加购", "加购物车", "加入购物车", "购物车"),
    "purchase": ("purchase", "buy", "order", "pay", "paid", "transaction", "checkout", "ordercompleted", "purchased", "sale", "购买", "下单", "支付", "付款",
                 "成交", "买", "已购买"),
    "return": ("return", "refund", "returned", "refunded", "退货", "退款"),
    "impression": ("impression", "exposure", "show", "exposed", "viewitemlist", "曝光", "展示", "推送"),
    "holdout": ("holdout", "heldout", "对照", "对照组"),
    "click": ("click", "clk", "tap", "selectitem", "点击"),
    "question": ("question", "inquiry", "enquiry", "productquestion", "咨询", "提问"),
}  # fmt: skip


def plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def kind_of(value: str) -> str | None:
    """The canonical event that a shop's word stands for."""
    word = plain(value)
    return next((kind for kind, names in EVENT_NAMES.items() if word in names), None)


def kind_of_flag(column: str) -> str | None:
    """The canonical event of which a column says whether it happened: purchase, is_click."""
    return kind_of(column.rpartition(".")[2].removeprefix("is_"))


def kind_of_file(name: str) -> str | None:
    """The canonical event of which a file tells by its name: views-2024-05.csv, add_to_cart.csv.gz."""
    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word]
    kinds = [kind_of(word) or kind_of(word.removesuffix("s")) for word in words]
    return next((kind for kind in kinds if kind), None)
